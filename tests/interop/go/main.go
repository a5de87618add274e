// Command peer speaks ttrpc with the Go library: as a server of the service interop.v1.Peer, or as a client that runs
// its cases against one and prints a line of JSON for each.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pb "google.golang.org/protobuf/types/known/wrapperspb"
)

const service = "interop.v1.Peer"

func failure(text string) error {
	number, rest, _ := strings.Cut(text, ":")
	code, err := strconv.Atoi(number)
	if err != nil {
		return errors.New(text)
	}
	return status.Error(codes.Code(code), rest)
}

func onString(f func(context.Context, string) (interface{}, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var in pb.StringValue
		if err := unmarshal(&in); err != nil {
			return nil, err
		}
		return f(ctx, in.Value)
	}
}

func describe() *ttrpc.ServiceDesc {
	return &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Echo": onString(func(_ context.Context, s string) (interface{}, error) { return pb.String(s), nil }),
			"Fail": onString(func(_ context.Context, s string) (interface{}, error) { return nil, failure(s) }),
			"Meta": onString(func(ctx context.Context, key string) (interface{}, error) {
				md, _ := ttrpc.GetMetadata(ctx)
				values, _ := md.Get(key)
				return pb.String(strings.Join(values, ",")), nil
			}),
			"Left": onString(func(ctx context.Context, _ string) (interface{}, error) {
				deadline, ok := ctx.Deadline()
				if !ok {
					return pb.String("none"), nil
				}
				return pb.String(strconv.Itoa(int(time.Until(deadline).Round(time.Second) / time.Second))), nil
			}),
			"Hang": onString(func(ctx context.Context, _ string) (interface{}, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}),
			"Size": onString(func(_ context.Context, s string) (interface{}, error) {
				n, err := strconv.Atoi(s)
				if err != nil {
					return nil, err
				}
				return pb.Bytes(make([]byte, n)), nil
			}),
		},
		Streams: map[string]ttrpc.Stream{
			"Count": {StreamingServer: true, Handler: count},
			"Sum":   {StreamingClient: true, Handler: sum},
			"Chat":  {StreamingClient: true, StreamingServer: true, Handler: chat},
		},
	}
}

// count sends 0, 1, … n-1; a negative n means -n messages and then an error.
func count(_ context.Context, ss ttrpc.StreamServer) (interface{}, error) {
	var in pb.Int64Value
	if err := ss.RecvMsg(&in); err != nil {
		return nil, err
	}
	n := in.Value
	if n < 0 {
		n = -n
	}
	for i := int64(0); i < n; i++ {
		if err := ss.SendMsg(pb.Int64(i)); err != nil {
			return nil, err
		}
	}
	if in.Value < 0 {
		return nil, status.Error(codes.FailedPrecondition, "counted enough")
	}
	return nil, nil
}

func sum(_ context.Context, ss ttrpc.StreamServer) (interface{}, error) {
	total := int64(0)
	for {
		var in pb.Int64Value
		if err := ss.RecvMsg(&in); err == io.EOF {
			return pb.Int64(total), nil
		} else if err != nil {
			return nil, err
		}
		if in.Value < 0 {
			return nil, status.Error(codes.OutOfRange, "below zero")
		}
		total += in.Value
	}
}

// chat echoes until the client closes its side; "bye" makes the server end first, "fail" makes it end badly.
func chat(_ context.Context, ss ttrpc.StreamServer) (interface{}, error) {
	for {
		var in pb.StringValue
		if err := ss.RecvMsg(&in); err == io.EOF {
			return nil, ss.SendMsg(pb.String("closed"))
		} else if err != nil {
			return nil, err
		}
		switch in.Value {
		case "bye":
			return nil, nil
		case "fail":
			return nil, status.Error(codes.Aborted, "asked to fail")
		}
		if err := ss.SendMsg(&in); err != nil {
			return nil, err
		}
	}
}

func serve(path string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.RegisterService(service, describe())
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() { // the test ends us by closing our input
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println("ready")
	err = server.Serve(context.Background(), listener)
	if errors.Is(err, ttrpc.ErrServerClosed) {
		return nil
	}
	return err
}

type peer struct{ client *ttrpc.Client }

func (p peer) text(ctx context.Context, method, in string) (string, error) {
	var out pb.StringValue
	err := p.client.Call(ctx, service, method, pb.String(in), &out)
	return out.Value, err
}

func (p peer) open(method string, fromClient, fromServer bool, first interface{}) (ttrpc.ClientStream, error) {
	desc := &ttrpc.StreamDesc{StreamingClient: fromClient, StreamingServer: fromServer}
	return p.client.NewStream(context.Background(), desc, service, method, first)
}

func want(got, expected interface{}) error {
	if fmt.Sprint(got) != fmt.Sprint(expected) {
		return fmt.Errorf("got %v, expected %v", got, expected)
	}
	return nil
}

func wantStatus(err error, code codes.Code, text string) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return fmt.Errorf("got %v, expected a status", err)
	}
	if s.Code() != code || s.Message() != text {
		return fmt.Errorf("got %v %q, expected %v %q", s.Code(), s.Message(), code, text)
	}
	return nil
}

func drain(s ttrpc.ClientStream) (values []int64, err error) {
	for {
		var out pb.Int64Value
		if err = s.RecvMsg(&out); err != nil {
			return values, err
		}
		values = append(values, out.Value)
	}
}

// A check is one case; its name is what the run's list shows.
type check struct {
	name string
	run  func() error
}

func (p peer) unary() []check {
	bg := context.Background()
	echo := func(text string) func() error {
		return func() error {
			got, err := p.text(bg, "Echo", text)
			if err != nil {
				return err
			}
			return want(got, text)
		}
	}
	fails := func(method, in string, code codes.Code, text string) func() error {
		return func() error {
			_, err := p.text(bg, method, in)
			return wantStatus(err, code, text)
		}
	}
	return []check{
		{"echo", echo("grüße")},
		{"empty message", echo("")},
		{"two MiB", echo(strings.Repeat("x", 2<<20))},
		{"status code and text", fails("Fail", "5:not here", codes.NotFound, "not here")},
		{"unknown method", fails("Nope", "", codes.Unimplemented, "method Nope")},
		{"unknown service", func() error {
			err := p.client.Call(bg, "no.Such", "Echo", pb.String(""), &pb.StringValue{})
			return wantStatus(err, codes.Unimplemented, "service no.Such")
		}},
		{"metadata", func() error {
			ctx := ttrpc.WithMetadata(bg, ttrpc.MD{"x-a": []string{"1", "2"}})
			got, err := p.text(ctx, "Meta", "x-a")
			if err != nil {
				return err
			}
			return want(got, "1,2")
		}},
		{"deadline is told", func() error {
			ctx, cancel := context.WithTimeout(bg, 90*time.Second)
			defer cancel()
			got, err := p.text(ctx, "Left", "")
			if err != nil {
				return err
			}
			return want(got, "90")
		}},
		{"no deadline", func() error {
			got, err := p.text(bg, "Left", "")
			if err != nil {
				return err
			}
			return want(got, "none")
		}},
		{"deadline passes", func() error {
			ctx, cancel := context.WithTimeout(bg, 50*time.Millisecond)
			defer cancel()
			_, err := p.text(ctx, "Hang", "")
			if err == nil || !strings.Contains(err.Error(), "deadline exceeded") {
				return fmt.Errorf("got %v", err)
			}
			return echo("alive")()
		}},
		{"answer too large", func() error {
			err := p.client.Call(bg, service, "Size", pb.String("4194304"), &pb.BytesValue{})
			if status.Code(err) != codes.ResourceExhausted {
				return fmt.Errorf("got %v", err)
			}
			return echo("alive")()
		}},
		{"many at once", func() error {
			var group sync.WaitGroup
			errs := make(chan error, 200)
			for i := 0; i < 200; i++ {
				group.Add(1)
				go func(i int) {
					defer group.Done()
					errs <- echo(strconv.Itoa(i))()
				}(i)
			}
			group.Wait()
			close(errs)
			for err := range errs {
				if err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

func (p peer) streams() []check {
	ints := func(method string, first interface{}, server bool, values ...int64) (ttrpc.ClientStream, error) {
		s, err := p.open(method, !server, server, first)
		for _, v := range values {
			if err == nil {
				err = s.SendMsg(pb.Int64(v))
			}
		}
		return s, err
	}
	return []check{
		{"server stream", func() error {
			s, err := ints("Count", pb.Int64(300), true)
			if err != nil {
				return err
			}
			got, err := drain(s)
			if err != io.EOF {
				return fmt.Errorf("ended with %v", err)
			}
			return want(len(got), 300)
		}},
		{"server stream, empty", func() error {
			s, err := ints("Count", pb.Int64(0), true)
			if err != nil {
				return err
			}
			if _, err = drain(s); err != io.EOF {
				return fmt.Errorf("ended with %v", err)
			}
			return nil
		}},
		{"server stream, error", func() error {
			s, err := ints("Count", pb.Int64(-2), true)
			if err != nil {
				return err
			}
			got, err := drain(s)
			if bad := want(len(got), 2); bad != nil {
				return bad
			}
			return wantStatus(err, codes.FailedPrecondition, "counted enough")
		}},
		{"client stream, half-close", func() error {
			s, err := ints("Sum", nil, false, 1, 0, 41)
			if err != nil {
				return err
			}
			if err = s.CloseSend(); err != nil {
				return err
			}
			var out pb.Int64Value
			if err = s.RecvMsg(&out); err != nil {
				return err
			}
			return want(out.Value, 42)
		}},
		{"client stream, error", func() error {
			s, err := ints("Sum", nil, false, 1, -1)
			if err != nil {
				return err
			}
			return wantStatus(s.RecvMsg(&pb.Int64Value{}), codes.OutOfRange, "below zero")
		}},
		{"bidi, half-close", func() error { return p.chat("closed", nil) }},
		{"bidi, server ends", func() error { return p.chat("bye", io.EOF) }},
		{"bidi, error", func() error { return p.chat("fail", status.Error(codes.Aborted, "asked to fail")) }},
	}
}

func (p peer) chat(how string, expected error) error {
	s, err := p.open("Chat", true, true, nil)
	if err != nil {
		return err
	}
	var out pb.StringValue
	for _, word := range []string{"a", "", "c"} {
		if err = s.SendMsg(pb.String(word)); err != nil {
			return err
		}
		if err = s.RecvMsg(&out); err != nil {
			return err
		}
		if err = want(out.Value, word); err != nil {
			return err
		}
	}
	if how != "closed" {
		if err = s.SendMsg(pb.String(how)); err != nil {
			return err
		}
		err = s.RecvMsg(&out)
		if expected == io.EOF {
			return want(err, io.EOF)
		}
		return wantStatus(err, status.Code(expected), status.Convert(expected).Message())
	}
	if err = s.CloseSend(); err != nil {
		return err
	}
	if err = s.RecvMsg(&out); err != nil {
		return err
	}
	if err = want(out.Value, "closed"); err != nil {
		return err
	}
	return want(s.RecvMsg(&out), io.EOF)
}

func dial(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	p := peer{ttrpc.NewClient(conn)}
	for _, c := range append(p.unary(), p.streams()...) {
		text := ""
		if err := c.run(); err != nil {
			text = err.Error()
		}
		line, err := json.Marshal(map[string]string{"case": c.name, "error": text})
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return p.client.Close()
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: peer server|client SOCKET")
		os.Exit(2)
	}
	run := dial
	if os.Args[1] == "server" {
		run = serve
	}
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Command peer speaks ttrpc with the older Go library (1.1.1, as in Debian 12: unary calls only): as a server of
// interop.v1.Peer, or as a client that runs its cases against one and prints a line of JSON for each.
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
	"time"

	"github.com/containerd/ttrpc"
	"github.com/gogo/protobuf/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const service = "interop.v1.Peer"

type answer func(context.Context, string) (string, error)

func method(f answer) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(interface{}) error) (interface{}, error) {
		var in types.StringValue
		if err := unmarshal(&in); err != nil {
			return nil, err
		}
		out, err := f(ctx, in.Value)
		if err != nil {
			return nil, err
		}
		return &types.StringValue{Value: out}, nil
	}
}

func serve(path string) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.Register(service, map[string]ttrpc.Method{
		"Echo": method(func(_ context.Context, s string) (string, error) { return s, nil }),
		"Fail": method(func(_ context.Context, s string) (string, error) {
			return "", status.Error(codes.NotFound, strings.TrimPrefix(s, "5:"))
		}),
		"Meta": method(func(ctx context.Context, key string) (string, error) {
			md, _ := ttrpc.GetMetadata(ctx)
			values, _ := md.Get(key)
			return strings.Join(values, ","), nil
		}),
		"Left": method(func(ctx context.Context, _ string) (string, error) {
			deadline, ok := ctx.Deadline()
			if !ok {
				return "none", nil
			}
			return strconv.Itoa(int(time.Until(deadline).Round(time.Second) / time.Second)), nil
		}),
	})
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() { // the test ends us by closing our input
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println("ready")
	if err = server.Serve(context.Background(), listener); errors.Is(err, ttrpc.ErrServerClosed) {
		return nil
	}
	return err
}

func dial(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	call := func(ctx context.Context, to, name, in string) (string, error) {
		var out types.StringValue
		err := client.Call(ctx, to, name, &types.StringValue{Value: in}, &out)
		return out.Value, err
	}
	report := func(name, text string) {
		line, _ := json.Marshal(map[string]string{"case": name, "error": text})
		fmt.Println(string(line))
	}
	is := func(name string, ctx context.Context, how, in, expected string) {
		got, err := call(ctx, service, how, in)
		if err != nil {
			report(name, err.Error())
		} else if got != expected {
			report(name, fmt.Sprintf("got %.80q", got))
		} else {
			report(name, "")
		}
	}
	fails := func(name, to, how, in string, code codes.Code, text string) {
		_, err := call(context.Background(), to, how, in)
		if s, ok := status.FromError(err); err == nil || !ok || s.Code() != code || s.Message() != text {
			report(name, fmt.Sprintf("got %v", err))
		} else {
			report(name, "")
		}
	}
	background := context.Background()
	long := strings.Repeat("x", 2<<20)
	is("echo", background, "Echo", "grüße", "grüße")
	is("empty message", background, "Echo", "", "")
	is("two MiB", background, "Echo", long, long)
	fails("status code and text", service, "Fail", "5:not here", codes.NotFound, "not here")
	fails("unknown method", service, "Nope", "", codes.Unimplemented, "method Nope")
	fails("unknown service", "no.Such", "Echo", "", codes.Unimplemented, "service no.Such")
	md := ttrpc.WithMetadata(background, ttrpc.MD{"x-a": []string{"1", "2"}})
	is("metadata", md, "Meta", "x-a", "1,2")
	timed, cancel := context.WithTimeout(background, 90*time.Second)
	defer cancel()
	is("deadline is told", timed, "Left", "", "90")
	is("no deadline", background, "Left", "", "none")
	return client.Close()
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

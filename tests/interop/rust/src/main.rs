//! Speaks ttrpc with the Rust crate: as a server of interop.v1.Peer (unary calls), or as a client that runs its cases
//! against one and prints a line of JSON for each.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::io::IntoRawFd;
use std::os::unix::net::UnixListener;
use std::{env, io, process};

use protobuf::well_known_types::wrappers::StringValue;
use protobuf::Message;
use ttrpc::{Code, Error, MethodHandler, Request, Response, TtrpcContext};

const SERVICE: &str = "interop.v1.Peer";

type Answer = Result<String, (Code, String)>;

struct Text(fn(&TtrpcContext, &Request, String) -> Answer);

impl MethodHandler for Text {
    fn handler(&self, ctx: TtrpcContext, req: Request) -> ttrpc::Result<()> {
        let mut res = Response::new();
        match StringValue::parse_from_bytes(&req.payload) {
            Err(e) => res.set_status(ttrpc::get_status(Code::INTERNAL, e.to_string())),
            Ok(input) => match (self.0)(&ctx, &req, input.value) {
                Ok(value) => {
                    res.set_status(ttrpc::get_status(Code::OK, "".to_string()));
                    let out = StringValue { value, ..Default::default() };
                    res.payload = out.write_to_bytes().expect("a string can be written");
                }
                Err((code, text)) => res.set_status(ttrpc::get_status(code, text)),
            },
        }
        ttrpc::response_to_channel(ctx.mh.stream_id, res, ctx.res_tx.clone())
    }
}

fn fail(_: &TtrpcContext, _: &Request, input: String) -> Answer {
    let code = if input.starts_with("5:") { Code::NOT_FOUND } else { Code::UNKNOWN };
    Err((code, input.splitn(2, ':').last().unwrap_or("").to_string()))
}

fn meta(ctx: &TtrpcContext, _: &Request, key: String) -> Answer {
    Ok(ctx.metadata.get(&key).map(|values| values.join(",")).unwrap_or_default())
}

fn left(ctx: &TtrpcContext, _: &Request, _: String) -> Answer {
    Ok(match ctx.timeout_nano {
        0 => "none".to_string(),
        nano => ((nano + 500_000_000) / 1_000_000_000).to_string(),
    })
}

fn serve(path: &str) -> ttrpc::Result<()> {
    let mut methods: HashMap<String, Box<dyn MethodHandler + Send + Sync>> = HashMap::new();
    let list: [(&str, fn(&TtrpcContext, &Request, String) -> Answer); 4] =
        [("Echo", |_, _, s| Ok(s)), ("Fail", fail), ("Meta", meta), ("Left", left)];
    for (name, run) in list {
        methods.insert(format!("/{}/{}", SERVICE, name), Box::new(Text(run)));
    }
    // The crate's own bind asks for a socket option that new kernels refuse on unix sockets.
    let listener = UnixListener::bind(path).map_err(|e| Error::Others(e.to_string()))?;
    let mut server = ttrpc::Server::new().add_listener(listener.into_raw_fd())?.register_service(methods);
    server.start()?;
    println!("ready");
    // The test ends us by closing our input.
    let mut rest = Vec::new();
    let _ = io::stdin().read_to_end(&mut rest);
    process::exit(0);
}

fn ask(client: &ttrpc::Client, method: &str, input: &str, nano: i64, metadata: &[(&str, &str)]) -> Result<String, Error> {
    let mut req = Request::new();
    req.service = if method == "NoService" { "no.Such".to_string() } else { SERVICE.to_string() };
    req.method = method.to_string();
    req.timeout_nano = nano;
    for (key, value) in metadata {
        let pair = ttrpc::proto::KeyValue { key: key.to_string(), value: value.to_string(), ..Default::default() };
        req.metadata.push(pair);
    }
    let message = StringValue { value: input.to_string(), ..Default::default() };
    req.payload = message.write_to_bytes().expect("a string can be written");
    let res = client.request(req)?;
    StringValue::parse_from_bytes(&res.payload).map(|m| m.value).map_err(|e| Error::Others(e.to_string()))
}

fn is(got: Result<String, Error>, expected: &str) -> String {
    match got {
        Ok(value) if value == expected => String::new(),
        other => format!("got {} characters or error, expected {:?}: {:.200}", expected.len(), &expected[..expected.len().min(40)], format!("{:?}", other)),
    }
}

fn ends(got: Result<String, Error>, code: Code, text: &str) -> String {
    match got {
        Err(Error::RpcStatus(s)) if s.code() == code && s.message() == text => String::new(),
        other => format!("got {:?}, expected {:?} {:?}", other, code, text),
    }
}

fn many(client: &ttrpc::Client) -> String {
    let threads: Vec<_> = (0..50)
        .map(|i| {
            let client = client.clone();
            std::thread::spawn(move || is(ask(&client, "Echo", &i.to_string(), 0, &[]), &i.to_string()))
        })
        .collect();
    threads.into_iter().map(|t| t.join().unwrap_or_else(|_| "a thread died".to_string())).collect::<Vec<_>>().concat()
}

fn dial(path: &str) -> ttrpc::Result<()> {
    let client = ttrpc::Client::connect(&format!("unix://{}", path))?;
    let c = &client;
    let long = "x".repeat(2 << 20);
    let report = |name: &str, error: String| println!("{{\"case\": {:?}, \"error\": {:?}}}", name, error);
    report("echo", is(ask(c, "Echo", "grüße", 0, &[]), "grüße"));
    report("empty message", is(ask(c, "Echo", "", 0, &[]), ""));
    report("two MiB", is(ask(c, "Echo", &long, 0, &[]), &long));
    report("status code and text", ends(ask(c, "Fail", "5:not here", 0, &[]), Code::NOT_FOUND, "not here"));
    report("unknown method", ends(ask(c, "Nope", "", 0, &[]), Code::UNIMPLEMENTED, "method Nope"));
    report("unknown service", ends(ask(c, "NoService", "", 0, &[]), Code::UNIMPLEMENTED, "service no.Such"));
    report("metadata", is(ask(c, "Meta", "x-a", 0, &[("x-a", "1"), ("x-a", "2")]), "1,2"));
    report("deadline is told", is(ask(c, "Left", "", 90_000_000_000, &[]), "90"));
    report("no deadline", is(ask(c, "Left", "", 0, &[]), "none"));
    // Either end may be the first to say so; the connection must go on.
    let late = match ask(c, "Hang", "", 50_000_000, &[]) {
        Ok(_) => "a call that hangs was answered".to_string(),
        Err(_) => is(ask(c, "Echo", "alive", 0, &[]), "alive"),
    };
    report("deadline passes", late);
    report("many at once", many(c));
    Ok(())
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let done = match (arguments.get(1).map(String::as_str), arguments.get(2)) {
        (Some("server"), Some(path)) => serve(path),
        (Some("client"), Some(path)) => dial(path),
        _ => Err(Error::Others("usage: peer server|client SOCKET".to_string())),
    };
    if let Err(error) = done {
        eprintln!("{:?}", error);
        process::exit(1);
    }
}

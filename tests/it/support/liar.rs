//! A registry that says whatever a test wants.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::oci::{Blobs, Made};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn is_blob(&self, digest: &str) -> bool {
        self.path.ends_with(&format!("/blobs/{digest}"))
    }
}

/// What comes back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    Whole(Vec<u8>),
    /// These bytes, then the connection breaks.
    Cut(Vec<u8>),
    /// These bytes over and over.
    Endless(Vec<u8>),
    /// One byte every 20 ms for ever.
    Drip,
    /// Nothing, and no end.
    Stall,
}

impl Reply {
    pub(crate) fn ok(body: Vec<u8>) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Whole(body) }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    pub(crate) fn body(body: Body) -> Self {
        Self { status: 200, headers: Vec::new(), body }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// What an honest registry has, under any repository name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) blobs: Blobs,
    /// Manifest digests by tag.
    pub(crate) tags: BTreeMap<String, String>,
}

impl Content {
    pub(crate) fn new(blobs: Blobs, made: &Made) -> Self {
        Self { blobs, tags: BTreeMap::from([("latest".to_owned(), made.digest.clone())]) }
    }

    pub(crate) fn serve(&self, seen: &Seen) -> Reply {
        let (_, last) = seen.path.rsplit_once('/').unwrap();
        let digest = self.tags.get(last).map_or(last, String::as_str);
        let Some(bytes) = self.blobs.0.get(digest) else { return Reply::status(404) };
        let start = seen
            .header("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match start {
            Some(start) if start < bytes.len() => {
                let last = bytes.len() - 1;
                let range = format!("bytes {start}-{last}/{}", bytes.len());
                let mut reply = Reply::ok(bytes[start..].to_vec()).with("content-range", range);
                reply.status = 206;
                reply
            }
            Some(_) => Reply::status(416),
            None => Reply::ok(bytes.clone()),
        }
    }
}

/// The server. It lives until the process ends.
pub(crate) struct Liar {
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Seen>>>,
}

impl Liar {
    pub(crate) fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, seen) = (Arc::new(handler), log.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, handler, seen));
        });
        Self { host, log }
    }

    /// An honest one.
    pub(crate) fn honest(content: Content) -> Self {
        Self::start(move |seen| content.serve(seen))
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }
}

async fn serve<H: Fn(&Seen) -> Reply + Send + Sync + 'static>(
    listener: TcpListener,
    handler: Arc<H>,
    log: Arc<Mutex<Vec<Seen>>>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (handler, log) = (handler.clone(), log.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = Seen {
                    path: request.uri().path().to_owned(),
                    query: request.uri().query().unwrap_or_default().to_owned(),
                    headers: request
                        .headers()
                        .iter()
                        .map(|(k, v)| (k.as_str().to_owned(), v.to_str().unwrap_or("").to_owned()))
                        .collect(),
                };
                log.lock().unwrap().push(seen.clone());
                let reply = handler(&seen);
                async move { Ok::<_, Infallible>(response(reply)) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Frames = Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>;

fn response(reply: Reply) -> Response<StreamBody<Frames>> {
    let mut builder = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        builder = builder.header(name, value);
    }
    let frame = |bytes: Vec<u8>| Ok(Frame::data(Bytes::from(bytes)));
    let frames: Frames = match reply.body {
        Body::Whole(bytes) => stream::iter([frame(bytes)]).boxed(),
        Body::Cut(bytes) => {
            let cut = stream::iter([frame(bytes)]).chain(stream::once(async {
                // Lets the bytes out first.
                tokio::task::yield_now().await;
                Err(io::ErrorKind::ConnectionReset.into())
            }));
            cut.boxed()
        }
        Body::Endless(bytes) => {
            stream::repeat(Bytes::from(bytes)).map(|b| Ok(Frame::data(b))).boxed()
        }
        Body::Drip => stream::unfold((), move |()| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((frame(vec![b'x']), ()))
        })
        .boxed(),
        Body::Stall => stream::pending().boxed(),
    };
    builder.body(StreamBody::new(frames)).unwrap()
}

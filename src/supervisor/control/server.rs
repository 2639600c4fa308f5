//! The supervisor's side.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use msb_protocol::mux::{self, MuxStream, Opener};
use msb_protocol::{Request, read_frame, write_message};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::runtime::release_code;
use crate::supervisor::activity::InUse;
use crate::supervisor::growth;
use crate::supervisor::metrics::{self, HostSide};
use crate::supervisor::scripts;

use super::socket::with_short_path;
use super::{ControlReply, ControlRequest, DeniedReason, JailLayer, StatusEvent};

/// Connections at a time.
const MAX_CLIENTS: usize = 256;
/// Connections beyond that, which are told that they are too many; further ones wait for these.
const MAX_REFUSALS: usize = 16;
/// How long a client may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a connection could not be accepted (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// One read of a spliced stream, in bytes.
const CHUNK: usize = 2 * mux::PAYLOAD;

/// A request that the owner of the VM decides on.
#[derive(Debug)]
pub(in crate::supervisor) struct Asked {
    pub(in crate::supervisor) request: ControlRequest,
    pub(in crate::supervisor) answer: oneshot::Sender<Result<Granted, DeniedReason>>,
}

/// What was granted.
#[derive(Debug)]
pub(in crate::supervisor) enum Granted {
    /// It is being done.
    Done,
    /// A session with the agent may be opened; it counts until its use is dropped.
    Session(Opener, Box<Request>, InUse),
    /// Somebody is there, until the connection ends.
    Attached(InUse),
    /// How the VM process is confined.
    Jail(Vec<JailLayer>),
    /// The guest gets these files of scripts.
    Scripts(Opener, BTreeMap<String, String>, Arc<AtomicBool>),
    /// The guest may be asked what it uses.
    Metrics(Opener, Box<HostSide>),
    /// The guest may be told which shares have grown; a session until its use is dropped.
    Growth(Opener, Vec<u32>, InUse),
}

/// A socket that listens. Its file stays: whoever holds the sandbox's lock removes it.
#[derive(Debug)]
pub(in crate::supervisor) struct Socket(UnixListener);

impl Socket {
    /// Binds `path`. What is there is of a supervisor that is dead: the caller holds its lock.
    pub(in crate::supervisor) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = with_short_path(path, |path| StdListener::bind(path))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self(UnixListener::from_std(listener)?))
    }
}

/// The connections that are being served.
#[derive(Clone, Debug, Default)]
pub(in crate::supervisor) struct Clients(Rc<RefCell<JoinSet<()>>>);

impl Clients {
    /// Gives the clients `time` to read what they were sent.
    pub(in crate::supervisor) async fn finish(self, time: Duration) {
        let mut clients = self.0.take();
        let _ = tokio::time::timeout(time, async { while clients.join_next().await.is_some() {} })
            .await;
    }

    /// How many there are.
    fn count(&self) -> usize {
        let mut set = self.0.borrow_mut();
        while set.try_join_next().is_some() {}
        set.len()
    }
}

/// Serves clients until it is dropped. Must run inside a `LocalSet`.
pub(in crate::supervisor) async fn serve(
    socket: Socket,
    clients: Clients,
    asked: mpsc::Sender<Asked>,
    status: watch::Receiver<StatusEvent>,
) {
    let me = rustix::process::geteuid().as_raw();
    let left = Rc::new(Notify::new());
    loop {
        let count = clients.count();
        let accepted = tokio::select! {
            accepted = socket.0.accept(), if count < MAX_CLIENTS + MAX_REFUSALS => accepted,
            () = left.notified() => {
                if clients.count() == 0 {
                    rest();
                }
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == me || peer.uid() == 0) {
            tracing::warn!("a client of another user was turned away");
            continue;
        }
        let (asked, status, left) = (asked.clone(), status.clone(), left.clone());
        clients.0.borrow_mut().spawn_local(async move {
            if count < MAX_CLIENTS {
                attend(stream, asked, status).await;
            } else {
                deny(stream, DeniedReason::TooManyClients).await;
            }
            left.notify_one();
        });
    }
}

/// Nobody is there any more.
fn rest() {
    if let Err(error) = release_code() {
        tracing::debug!(%error, "the code stays in memory");
    }
}

async fn deny(mut stream: UnixStream, reason: DeniedReason) {
    let reply = ControlReply::Denied(reason);
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, write_message(&mut stream, &reply)).await;
}

async fn attend(
    mut stream: UnixStream,
    asked: mpsc::Sender<Asked>,
    mut status: watch::Receiver<StatusEvent>,
) {
    let mut buffer = Vec::new();
    let first = tokio::time::timeout(REQUEST_TIMEOUT, read_frame(&mut stream, &mut buffer)).await;
    let request = match first {
        Ok(Ok(Some(frame))) => frame.message::<ControlRequest>(),
        Ok(Ok(None)) | Ok(Err(_)) | Err(_) => return,
    };
    drop(buffer);
    let request = match request {
        Ok(request) => request,
        Err(_) => return deny(stream, DeniedReason::Invalid("unknown request".into())).await,
    };
    match request {
        ControlRequest::Status => {
            let event = status.borrow_and_update().clone();
            let _ = write_message(&mut stream, &ControlReply::Status(Box::new(event))).await;
        }
        ControlRequest::Watch => watch(stream, status).await,
        request => {
            let (answer, answered) = oneshot::channel();
            let denied = match asked.send(Asked { request, answer }).await {
                Err(_) => Err(DeniedReason::Stopping),
                Ok(()) => answered.await.unwrap_or(Err(DeniedReason::Stopping)),
            };
            match denied {
                Err(reason) => deny(stream, reason).await,
                Ok(Granted::Done) => {
                    let _ = write_message(&mut stream, &ControlReply::Accepted).await;
                }
                Ok(Granted::Jail(layers)) => {
                    let _ = write_message(&mut stream, &ControlReply::Jail(layers)).await;
                }
                Ok(Granted::Scripts(opener, files, there)) => {
                    match scripts::replace(&opener, files, &there).await {
                        Ok(()) => {
                            let _ = write_message(&mut stream, &ControlReply::Accepted).await;
                        }
                        Err(why) => {
                            let why = format!("the scripts could not be written: {why}");
                            deny(stream, DeniedReason::Invalid(why)).await;
                        }
                    }
                }
                Ok(Granted::Metrics(opener, host)) => match metrics::sample(&opener, *host).await {
                    Some(sample) => {
                        let reply = ControlReply::Metrics(Box::new(sample));
                        let _ = write_message(&mut stream, &reply).await;
                    }
                    None => deny(stream, DeniedReason::NoAnswer).await,
                },
                Ok(Granted::Growth(opener, shares, _in_use)) => {
                    match growth::tell(&opener, &shares).await {
                        Ok(()) => {
                            let _ = write_message(&mut stream, &ControlReply::Accepted).await;
                        }
                        Err(reason) => deny(stream, reason).await,
                    }
                }
                Ok(Granted::Attached(_in_use)) => {
                    if write_message(&mut stream, &ControlReply::Accepted).await.is_ok() {
                        // Nothing more is said: what can be read is its end.
                        let _ = stream.read(&mut [0]).await;
                    }
                }
                Ok(Granted::Session(opener, request, _in_use)) => {
                    session(stream, &opener, &request).await;
                }
            }
        }
    }
}

async fn watch(stream: UnixStream, mut status: watch::Receiver<StatusEvent>) {
    let (mut reader, mut writer) = stream.into_split();
    let tell = async {
        loop {
            let event = status.borrow_and_update().clone();
            let ended = event.has_ended();
            let reply = ControlReply::Status(Box::new(event));
            if write_message(&mut writer, &reply).await.is_err() || ended {
                return;
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    };
    // A watcher says nothing more: what can be read is its end.
    let mut byte = [0];
    tokio::select! {
        () = tell => {}
        _ = reader.read(&mut byte) => {}
    }
}

async fn session(mut stream: UnixStream, opener: &Opener, request: &Request) {
    let open = async {
        let mut agent = opener.open().await.ok()?;
        write_message(&mut agent, request).await.ok()?;
        agent.flush().await.ok()?;
        Some(agent)
    };
    match open.await {
        None => deny(stream, DeniedReason::Stopping).await,
        Some(agent) => {
            if write_message(&mut stream, &ControlReply::Accepted).await.is_ok() {
                splice(stream, agent).await;
            }
        }
    }
}

/// Copies both ways until either side ends. The client's end resets the agent's stream, so that the
/// agent kills the session; the agent's end is the session's. An agent that takes no more has ended
/// the session, and its last words are still to be passed on.
async fn splice(client: UnixStream, agent: MuxStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_agent, mut to_agent) = tokio::io::split(agent);
    let input = async {
        if pump(&mut from_client, &mut to_agent).await == End::Taken {
            let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
        }
    };
    tokio::select! {
        () = input => {}
        _ = pump(&mut from_agent, &mut to_client) => {}
    }
}

/// Why no more is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing more comes.
    Given,
    /// Nothing more is taken.
    Taken,
}

async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> End {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return End::Given,
            Ok(length) => {
                let Some(bytes) = buffer.get(..length) else { return End::Given };
                if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
                    return End::Taken;
                }
            }
        }
    }
}

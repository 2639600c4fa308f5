//! The connection to the host: streams in, one task each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use msb_protocol::mux::{self, MuxStream};
use msb_protocol::{
    BootConfig, BootFailed, ControlInput, ControlOutput, ExecFailure, ExecOutput, FsFailure,
    FsReply, FsRequest, GrowReply, GrowRequest, ProbeOutput, ProbeRequest, Request,
    agent_handshake, append_message, read_frame, write_message,
};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, Notify};
use tokio::task::LocalSet;

use crate::boot::{self, Growth};
use crate::helper;
use crate::port::Port;
use crate::reaper::Reaper;
use crate::scripts::Scripts;
use crate::{exec, fs, metrics, probe, stop};

/// Where the agent runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As PID 1 of a guest.
    Guest,
    /// As an ordinary process.
    Process,
}

/// What all streams share.
pub(crate) struct Agent {
    pub(crate) place: Place,
    pub(crate) reaper: Reaper,
    /// What boot did that shutdown undoes.
    pub(crate) booted: RefCell<Option<boot::Booted>>,
    pub(crate) scripts: RefCell<Scripts>,
    phase: Cell<Phase>,
    has_control: Cell<bool>,
    /// Exec sessions and requests on files that run.
    pub(crate) sessions: Underway,
    /// Commands that run and were detached from their sessions.
    detached: Underway,
    /// Held while a volume grows.
    growing: Mutex<()>,
    /// Everything is stopped and the host has been told.
    finished: Notify,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Ready,
    Stopping,
}

/// Serves the host on `port` until it asks for a shutdown (then `Ok`) or goes away.
pub(crate) fn run(port: OwnedFd, place: Place) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(port, place))
}

async fn serve(port: OwnedFd, place: Place) -> io::Result<()> {
    let (reaper, events) = Reaper::new()?;
    let agent = Rc::new(Agent {
        place,
        reaper,
        booted: RefCell::new(None),
        scripts: RefCell::new(Scripts::new(place)),
        phase: Cell::new(Phase::Waiting),
        has_control: Cell::new(false),
        sessions: Underway::default(),
        detached: Underway::default(),
        growing: Mutex::new(()),
        finished: Notify::new(),
    });
    let collecting = agent.clone();
    tokio::task::spawn_local(async move { collecting.reaper.run(events).await });

    let (mut port, synchronous) = Port::new(port)?;
    agent_handshake(&mut port).await.map_err(io::Error::other)?;
    let (mut acceptor, driver) = mux::server(port);
    let driver = tokio::task::spawn_local(driver);
    let is_finished = loop {
        tokio::select! {
            stream = acceptor.accept() => match stream {
                Some(stream) => {
                    tokio::task::spawn_local(agent.clone().stream(stream));
                }
                None => break false,
            },
            () = agent.finished.notified() => break true,
        }
    };
    if is_finished {
        if place == Place::Guest {
            stop::restart_when_overdue();
            synchronous.set(true);
        }
        acceptor.closer().close().await;
        return Ok(());
    }
    agent.stop(0).await;
    match driver.await {
        Ok(Err(error)) => Err(io::Error::other(error)),
        _ => Err(io::Error::other("the host has gone")),
    }
}

impl Agent {
    async fn stream(self: Rc<Self>, stream: MuxStream) {
        let (mut reader, writer) = tokio::io::split(stream);
        let mut buffer = Vec::new();
        // A stream that starts with anything else is dropped, which resets it.
        let Ok(Some(frame)) = read_frame(&mut reader, &mut buffer).await else { return };
        match frame.message::<Request>() {
            Ok(Request::Control) if !self.has_control.replace(true) => {
                self.control(reader, writer).await;
                self.has_control.set(false);
            }
            Ok(Request::Exec(request)) => self.exec(request, reader, writer).await,
            Ok(Request::Probe(request)) => self.probe(&request, writer).await,
            Ok(Request::Metrics) => {
                let mut writer = writer;
                let _ = write_message(&mut writer, &metrics::read()).await;
                let _ = writer.shutdown().await;
            }
            Ok(Request::Fs(request)) => self.fs(request, reader, writer).await,
            Ok(Request::Detached) => {
                let mut writer = writer;
                tokio::select! {
                    () = self.detached.all_ended() => {}
                    // The host asks no more.
                    _ = read_frame(&mut reader, &mut buffer) => {}
                }
                let _ = writer.shutdown().await;
            }
            Ok(Request::Scripts(scripts)) => self.replace_scripts(&scripts, writer).await,
            Ok(Request::Grow(request)) => self.grow(request, writer).await,
            Ok(Request::Control) | Err(_) => {}
        }
    }

    async fn control(&self, mut reader: ReadHalf<MuxStream>, mut writer: WriteHalf<MuxStream>) {
        let mut buffer = Vec::new();
        while let Ok(Some(frame)) = read_frame(&mut reader, &mut buffer).await {
            let Ok(input) = frame.message::<ControlInput>() else { return };
            let output = match input {
                ControlInput::Boot(config) => match self.boot(&config) {
                    Ok(uptime_us) => ControlOutput::Ready { uptime_us },
                    Err(failed) => ControlOutput::BootFailed(failed),
                },
                ControlInput::Shutdown { grace_ms } => {
                    self.stop(grace_ms).await;
                    let _ = write_message(&mut writer, &ControlOutput::Bye).await;
                    let _ = writer.shutdown().await;
                    self.finished.notify_one();
                    return;
                }
            };
            if write_message(&mut writer, &output).await.is_err() {
                return;
            }
        }
    }

    fn boot(&self, config: &BootConfig) -> Result<u64, BootFailed> {
        if self.phase.get() != Phase::Waiting {
            let message = "the guest has been set up already".to_owned();
            return Err(BootFailed { stage: "boot".to_owned(), message });
        }
        if self.place == Place::Guest {
            let booted = boot::set_up(config)?;
            *self.booted.borrow_mut() = booted;
        }
        self.scripts.borrow_mut().set(&config.scripts).map_err(|error| BootFailed {
            stage: "write the scripts".to_owned(),
            message: error.to_string(),
        })?;
        self.phase.set(Phase::Ready);
        Ok(boot::uptime_us())
    }

    async fn replace_scripts(
        &self,
        scripts: &BTreeMap<String, String>,
        mut writer: WriteHalf<MuxStream>,
    ) {
        if let Some(refusal) = self.refusal() {
            return fs::refuse(writer, refusal).await;
        }
        let written = self.scripts.borrow_mut().set(scripts);
        let reply = match written {
            Ok(()) => FsReply::Done,
            Err(error) => FsReply::Failed(FsFailure::new(b"", &error)),
        };
        let _ = write_message(&mut writer, &reply).await;
        let _ = writer.shutdown().await;
    }

    async fn probe(&self, request: &ProbeRequest, mut writer: WriteHalf<MuxStream>) {
        let output = match self.phase.get() {
            Phase::Ready => probe::probe(request).await,
            Phase::Waiting | Phase::Stopping => ProbeOutput::Failed(String::new()),
        };
        let _ = write_message(&mut writer, &output).await;
        let _ = writer.shutdown().await;
    }

    async fn exec(
        &self,
        request: msb_protocol::ExecRequest,
        reader: ReadHalf<MuxStream>,
        mut writer: WriteHalf<MuxStream>,
    ) {
        if let Some(refusal) = self.refusal() {
            let failed = ExecOutput::Failed(ExecFailure::System(refusal.to_owned()));
            let _ = write_message(&mut writer, &failed).await;
            let _ = writer.shutdown().await;
            return;
        }
        let scripts = self.scripts.borrow().dir().map(str::to_owned);
        let session = exec::serve(&self.reaper, &self.detached, request, scripts, reader, writer);
        self.sessions.run(session).await;
    }

    async fn fs(
        &self,
        request: FsRequest,
        reader: ReadHalf<MuxStream>,
        writer: WriteHalf<MuxStream>,
    ) {
        match self.refusal() {
            Some(refusal) => fs::refuse(writer, refusal).await,
            None => self.sessions.run(fs::serve(&self.reaper, request, reader, writer)).await,
        }
    }

    async fn grow(&self, request: GrowRequest, mut writer: WriteHalf<MuxStream>) {
        let failed = match self.refusal() {
            Some(refusal) => Err(io::Error::other(refusal)),
            None => {
                let _one_at_a_time = self.growing.lock().await;
                let mut grown = Ok(());
                self.sessions
                    .run(async { grown = self.start_growth(request, &mut writer).await })
                    .await;
                grown
            }
        };
        if let Err(error) = failed {
            let _ = write_message(&mut writer, &GrowReply::Failed(error.to_string())).await;
        }
        let _ = writer.shutdown().await;
    }

    /// Has a helper do it and answer; to its end, whether or not the host still listens.
    async fn start_growth(
        &self,
        request: GrowRequest,
        writer: &mut WriteHalf<MuxStream>,
    ) -> io::Result<()> {
        let (mut socket, pid) = {
            let booted = self.booted.borrow();
            let growth = booted.as_ref().and_then(|booted| booted.growth(request.share));
            let growth = growth.ok_or_else(|| {
                io::Error::other("the guest cannot make it larger while it is mounted")
            })?;
            helper::start(&growth.descriptors(), |socket| answer(&growth, socket))?
        };
        let exit = self.reaper.watch(pid);
        helper::pass(&mut socket, writer).await;
        let _ = exit.await;
        Ok(())
    }

    /// Why no session starts.
    fn refusal(&self) -> Option<&'static str> {
        match self.phase.get() {
            Phase::Ready => None,
            Phase::Waiting => Some("the guest is not set up yet"),
            Phase::Stopping => Some("the guest is shutting down"),
        }
    }

    /// Stops everything; no session starts from here on.
    async fn stop(&self, grace_ms: u64) {
        self.phase.set(Phase::Stopping);
        stop::stop(self, grace_ms).await;
    }
}

/// Counts what is under way.
#[derive(Default)]
pub(crate) struct Underway {
    count: Cell<usize>,
    ended: Notify,
}

impl Underway {
    /// Runs one to its end.
    pub(crate) async fn run(&self, one: impl Future<Output = ()>) {
        self.count.update(|count| count + 1);
        one.await;
        self.count.update(|count| count - 1);
        self.ended.notify_waiters();
    }

    /// Returns when all have ended.
    pub(crate) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.count.get() == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// In a helper: lets a volume grow, and says what came of it.
fn answer(growth: &Growth<'_>, mut socket: &UnixStream) -> bool {
    let reply = match growth.carry_out() {
        Ok(()) => GrowReply::Grown,
        Err(error) => GrowReply::Failed(error.to_string()),
    };
    let mut bytes = Vec::new();
    append_message(&mut bytes, &reply).is_ok() && socket.write_all(&bytes).is_ok()
}

//! Who uses a sandbox: what a drain waits for, and what keeps the sandbox from being idle.
//!
//! In use is a sandbox while a session is open (a command, a request on its files), while a command
//! runs that was detached from its session, and while somebody is attached. What runs by itself is no
//! use of it: its workload, hooks, health checks, questions about its status.
//!
//! Nothing is polled: who uses the sandbox says so here, and the agent tells the end of the last
//! detached command.

use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{Request, write_message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::run::Notice;

/// The uses of one run, shared by whoever counts.
#[derive(Clone, Debug)]
pub(super) struct Activity(watch::Sender<Uses>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Uses {
    sessions: usize,
    attached: usize,
    /// Of all that have begun.
    begun: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Session,
    Attached,
}

/// One use, until it is dropped.
#[derive(Debug)]
pub(in crate::supervisor) struct InUse {
    uses: watch::Sender<Uses>,
    kind: Kind,
}

impl Activity {
    /// None so far.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Uses::default()))
    }

    /// Sessions that are open.
    pub(super) fn sessions(&self) -> usize {
        self.0.borrow().sessions
    }

    /// Begins a session.
    pub(super) fn session(&self) -> InUse {
        self.begin(Kind::Session)
    }

    /// Somebody attaches.
    pub(super) fn attach(&self) -> InUse {
        self.begin(Kind::Attached)
    }

    fn begin(&self, kind: Kind) -> InUse {
        self.0.send_modify(|uses| {
            *uses.of(kind) += 1;
            uses.begun = uses.begun.wrapping_add(1);
        });
        InUse { uses: self.0.clone(), kind }
    }

    /// Whether nothing has begun since [`watch`] told this number.
    pub(super) fn is_unused_since(&self, begun: u64) -> bool {
        self.0.borrow().begun == begun
    }

    /// Returns when no session is open and no detached command runs.
    pub(super) async fn sessions_ended(&self, opener: Option<&Opener>) {
        let mut uses = self.0.subscribe();
        loop {
            // The sender is `self`.
            let _ = uses.wait_for(|uses| uses.sessions == 0).await;
            let Some(opener) = opener else { return };
            tokio::select! {
                () = detached_ended(opener) => return,
                _ = uses.changed() => {}
            }
        }
    }
}

impl Uses {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Session => &mut self.sessions,
            Kind::Attached => &mut self.attached,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.uses.send_modify(|uses| *uses.of(self.kind) -= 1);
    }
}

/// Tells each time that the sandbox has not been used for `limit`.
pub(super) async fn watch_idleness(
    activity: Activity,
    opener: Opener,
    limit: Duration,
    notices: mpsc::Sender<Notice>,
) {
    let mut uses = activity.0.subscribe();
    loop {
        let unused = |uses: &Uses| uses.sessions == 0 && uses.attached == 0;
        let Ok(begun) = uses.wait_for(unused).await.map(|uses| uses.begun) else { return };
        let idle = async {
            detached_ended(&opener).await;
            tokio::time::sleep(limit).await;
        };
        tokio::select! {
            () = idle => {
                if notices.send(Notice::Idle(begun)).await.is_err() || uses.changed().await.is_err() {
                    return;
                }
            }
            _ = uses.changed() => {}
        }
    }
}

/// Returns when no command runs that was detached from its session, or the agent does not say so.
async fn detached_ended(opener: &Opener) {
    let asked = async {
        let mut stream = opener.open().await.ok()?;
        write_message(&mut stream, &Request::Detached).await.ok()?;
        stream.flush().await.ok()?;
        stream.read(&mut [0]).await.ok()
    };
    asked.await;
}

#[cfg(test)]
mod tests {
    use msb_protocol::mux;
    use tokio::io::duplex;
    use tokio::sync::mpsc::error::TryRecvError;
    use tokio::task::{LocalSet, yield_now};
    use tokio::time::{Instant, advance};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const MOMENT: Duration = Duration::from_millis(1);

    /// An agent that closes each stream as soon as `quiet` says so; the way to it.
    fn agent(quiet: watch::Receiver<bool>) -> Opener {
        let (ours, theirs) = duplex(1 << 16);
        let (opener, driver) = mux::client(ours);
        tokio::task::spawn_local(driver);
        let (mut acceptor, driver) = mux::server(theirs);
        tokio::task::spawn_local(driver);
        tokio::task::spawn_local(async move {
            while let Some(mut stream) = acceptor.accept().await {
                let mut quiet = quiet.clone();
                tokio::task::spawn_local(async move {
                    let mut buffer = Vec::new();
                    let frame = msb_protocol::read_frame(&mut stream, &mut buffer).await.unwrap();
                    assert_eq!(frame.unwrap().message::<Request>().unwrap(), Request::Detached);
                    let _ = quiet.wait_for(|quiet| *quiet).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        opener
    }

    async fn settle() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_time_without_any_use_counts() {
        let test = async {
            let (detached, quiet) = watch::channel(true);
            let activity = Activity::new();
            let (notices, mut told) = mpsc::channel(4);
            let watch = watch_idleness(activity.clone(), agent(quiet), LIMIT, notices);
            tokio::task::spawn_local(watch);
            let mut silent = async |time: Duration| {
                settle().await;
                advance(time).await;
                settle().await;
                assert!(matches!(told.try_recv(), Err(TryRecvError::Empty)));
            };
            silent(LIMIT - MOMENT).await;
            // However long it is quiet.
            let session = activity.session();
            silent(10 * LIMIT).await;
            let attached = activity.attach();
            drop(session);
            silent(10 * LIMIT).await;
            detached.send_replace(false);
            drop(attached);
            silent(10 * LIMIT).await;
            detached.send_replace(true);
            silent(LIMIT - MOMENT).await;
            // One that begins and ends at once counts too.
            drop(activity.session());
            silent(LIMIT - MOMENT).await;
            let begun = Instant::now();
            let Some(Notice::Idle(mark)) = told.recv().await else { panic!("no notice") };
            assert_eq!(begun.elapsed(), MOMENT);
            assert!(activity.is_unused_since(mark));
            // Told too late: what has begun meanwhile has it start over.
            drop(activity.session());
            assert!(!activity.is_unused_since(mark));
            let Some(Notice::Idle(mark)) = told.recv().await else { panic!("no notice") };
            assert!(activity.is_unused_since(mark));
            assert_eq!(begun.elapsed(), MOMENT + LIMIT);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_sessions_and_for_what_was_detached() {
        let test = async {
            let (detached, quiet) = watch::channel(false);
            let (activity, opener) = (Activity::new(), agent(quiet));
            let attached = activity.attach();
            let (first, second) = (activity.session(), activity.session());
            assert_eq!(activity.sessions(), 2);
            let ended = activity.sessions_ended(Some(&opener));
            tokio::pin!(ended);
            let mut waits = async |what: &str| {
                let ended = tokio::time::timeout(LIMIT, &mut ended).await;
                assert!(ended.is_err(), "{what}");
            };
            waits("two sessions").await;
            drop(first);
            waits("a session").await;
            drop(second);
            waits("a detached command").await;
            detached.send_replace(true);
            ended.await;
            drop(attached);
        };
        LocalSet::new().run_until(test).await;
    }
}

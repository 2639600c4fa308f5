//! The health check.

use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{
    ExecRequest, ExitStatus, ProbeOutput, ProbeRequest, Request, read_frame, write_message,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::capture::{self, keep};
use crate::spec::{Health, HealthCheck};

/// What a probe asks of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probing {
    /// To run a command.
    Command(ExecRequest),
    /// To connect to something.
    Connection(ProbeRequest),
}

/// The verdict so far: pure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    health: Health,
    failures: u32,
}

impl Verdict {
    pub(super) const fn new() -> Self {
        Self { health: Health::Starting, failures: 0 }
    }

    /// Takes the result of one probe in. Failures in the start period do not count until a probe
    /// has succeeded.
    pub(super) fn record(&mut self, ok: bool, in_start_period: bool, retries: u32) -> Health {
        if ok {
            self.failures = 0;
            self.health = Health::Healthy;
        } else if !(in_start_period && self.health == Health::Starting) {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= retries.max(1) {
                self.health = Health::Unhealthy;
            }
        }
        self.health
    }
}

/// A change of health.
#[derive(Clone, Debug)]
pub(super) struct HealthChange {
    pub(super) health: Health,
    /// What the last probe had to say.
    pub(super) output: String,
}

/// Probes for ever, and reports when the verdict changes (and every failure, for its output).
pub(super) async fn watch(
    opener: Opener,
    request: Probing,
    check: HealthCheck,
    changes: mpsc::Sender<HealthChange>,
) {
    let begun = Instant::now();
    let mut verdict = Verdict::new();
    let mut before = Health::Starting;
    loop {
        let (ok, output) = probe(&opener, &request, check.timeout.duration()).await;
        let early = begun.elapsed() < check.start_period.duration();
        let health = verdict.record(ok, early, check.retries);
        if health != before {
            before = health;
            tracing::info!(%health, "health");
            if changes.send(HealthChange { health, output }).await.is_err() {
                return;
            }
        } else if !ok {
            tracing::debug!(output, "probe failed");
        }
        tokio::time::sleep(check.interval.duration()).await;
    }
}

async fn probe(opener: &Opener, request: &Probing, timeout: Duration) -> (bool, String) {
    let mut output = Vec::new();
    let run = run(opener, request, &mut output);
    // Dropping the future closes the session, which kills it.
    let ended = tokio::time::timeout(timeout, run).await;
    let mut text = String::from_utf8_lossy(&output).into_owned();
    match ended {
        Ok(Some(ok)) => (ok, text),
        Ok(None) => (false, "the probe could not be run".into()),
        Err(_) => {
            text.push_str("\n(timed out)");
            (false, text)
        }
    }
}

/// Whether the probe succeeds; `None` when the agent does not say.
async fn run(opener: &Opener, probe: &Probing, output: &mut Vec<u8>) -> Option<bool> {
    let request = match probe {
        Probing::Command(request) => {
            let status = capture::exec(opener, request, output).await?;
            return Some(status == ExitStatus::Code(0));
        }
        Probing::Connection(request) => request,
    };
    let mut stream = opener.open().await.ok()?;
    write_message(&mut stream, &Request::Probe(request.clone())).await.ok()?;
    let mut buffer = Vec::new();
    let frame = read_frame(&mut stream, &mut buffer).await.ok()??;
    let (ok, text) = match frame.message().ok()? {
        ProbeOutput::Connected => (true, String::new()),
        ProbeOutput::Status(status) => {
            ((200..400).contains(&status), format!("HTTP status {status}"))
        }
        ProbeOutput::Failed(why) => (false, why),
    };
    keep(output, text.as_bytes());
    Some(ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_in_a_row_make_it_unhealthy() {
        let mut verdict = Verdict::new();
        assert_eq!(verdict.record(false, false, 3), Health::Starting);
        assert_eq!(verdict.record(false, false, 3), Health::Starting);
        assert_eq!(verdict.record(true, false, 3), Health::Healthy);
        assert_eq!(verdict.record(false, false, 3), Health::Healthy);
        assert_eq!(verdict.record(false, false, 3), Health::Healthy);
        assert_eq!(verdict.record(false, false, 3), Health::Unhealthy);
        assert_eq!(verdict.record(true, false, 3), Health::Healthy);
    }

    #[test]
    fn the_start_period_forgives_until_the_first_success() {
        let mut verdict = Verdict::new();
        for _ in 0..10 {
            assert_eq!(verdict.record(false, true, 1), Health::Starting);
        }
        assert_eq!(verdict.record(true, true, 1), Health::Healthy);
        assert_eq!(verdict.record(false, true, 1), Health::Unhealthy);
    }

    #[test]
    fn no_retries_mean_one() {
        assert_eq!(Verdict::new().record(false, false, 0), Health::Unhealthy);
    }
}

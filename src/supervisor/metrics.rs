//! What a run uses: the guest's word for what only its kernel knows, this machine's for the rest.

use std::time::Duration;

use msb_protocol::mux::Opener;
use msb_protocol::{GuestMetrics, Request, read_frame, write_message};
use tokio::time::{Instant, timeout};

use super::control::MetricsSample;
use crate::store::now_ms;

/// How long the guest may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What this side knows of a run.
#[derive(Clone, Debug)]
pub(super) struct HostSide {
    pub(super) run_id: String,
    /// When its VM was started.
    pub(super) since: Instant,
    pub(super) vm_pid: u32,
    pub(super) cpus: u32,
    pub(super) memory_limit_bytes: u64,
}

/// Asks the guest; `None` when it does not answer.
pub(super) async fn sample(opener: &Opener, host: HostSide) -> Option<MetricsSample> {
    let guest = timeout(PATIENCE, ask(opener)).await.ok()??;
    let uptime_us = u64::try_from(host.since.elapsed().as_micros()).unwrap_or(u64::MAX);
    let sample = MetricsSample {
        at_ms: now_ms(),
        uptime_us,
        host_memory_bytes: resident(host.vm_pid),
        ..bounded(&guest, &host, uptime_us)
    };
    Some(sample)
}

/// A guest cannot have used more than its machine has.
fn bounded(guest: &GuestMetrics, host: &HostSide, uptime_us: u64) -> MetricsSample {
    let used = guest.memory_total_bytes.saturating_sub(guest.memory_available_bytes);
    MetricsSample {
        run_id: host.run_id.clone(),
        cpus: host.cpus,
        cpu_us: guest.cpu_us.min(uptime_us.saturating_mul(host.cpus.into())),
        memory_bytes: used.min(host.memory_limit_bytes),
        memory_limit_bytes: host.memory_limit_bytes,
        disk_read_bytes: guest.disk_read_bytes,
        disk_write_bytes: guest.disk_write_bytes,
        net_rx_bytes: guest.net_rx_bytes,
        net_tx_bytes: guest.net_tx_bytes,
        ..MetricsSample::default()
    }
}

async fn ask(opener: &Opener) -> Option<GuestMetrics> {
    let mut stream = opener.open().await.ok()?;
    write_message(&mut stream, &Request::Metrics).await.ok()?;
    let mut buffer = Vec::new();
    read_frame(&mut stream, &mut buffer).await.ok()??.message().ok()
}

/// The resident memory of a process, in bytes; 0 when it has ended.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lies_stay_within_the_machine() {
        let host = HostSide {
            run_id: "r".into(),
            since: Instant::now(),
            vm_pid: 1,
            cpus: 2,
            memory_limit_bytes: 1 << 20,
        };
        let guest = GuestMetrics {
            cpu_us: u64::MAX,
            memory_total_bytes: u64::MAX,
            memory_available_bytes: 0,
            ..GuestMetrics::default()
        };
        let sample = bounded(&guest, &host, 1000);
        assert_eq!((sample.cpu_us, sample.memory_bytes), (2000, 1 << 20));
        let guest = GuestMetrics { memory_available_bytes: 5, ..GuestMetrics::default() };
        assert_eq!(bounded(&guest, &host, 0).memory_bytes, 0);
    }

    #[test]
    fn a_process_is_resident_while_it_lives() {
        assert!(resident(std::process::id()) > 0);
        assert_eq!(resident(u32::MAX), 0);
    }
}

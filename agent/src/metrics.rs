//! What the guest uses, from its kernel. Read when the host asks, and only then.

use std::fs;

use msb_protocol::GuestMetrics;

/// Clock ticks of `/proc/stat` in a second: the kernel's ABI says so on every architecture of ours.
const TICKS: u64 = 100;
/// What a sector of `/proc/diskstats` is, in bytes, whatever the disk has.
const SECTOR: u64 = 512;

/// What can be read; what cannot is 0.
pub(crate) fn read() -> GuestMetrics {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory = text("/proc/meminfo");
    let (disk_read_bytes, disk_write_bytes) = disks(&text("/proc/diskstats"));
    let (net_rx_bytes, net_tx_bytes) = network(&text("/proc/net/dev"));
    GuestMetrics {
        cpu_us: busy_us(&text("/proc/stat")),
        memory_total_bytes: kib(&memory, "MemTotal:") * 1024,
        memory_available_bytes: kib(&memory, "MemAvailable:") * 1024,
        disk_read_bytes,
        disk_write_bytes,
        net_rx_bytes,
        net_tx_bytes,
    }
}

fn number(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// All but idle and waiting; what guests of this guest used is in `user` already.
fn busy_us(stat: &str) -> u64 {
    let Some(line) = stat.lines().find(|line| line.starts_with("cpu ")) else { return 0 };
    // user nice system idle iowait irq softirq steal
    let fields: Vec<u64> =
        line.split_whitespace().skip(1).take(8).map(|f| number(Some(f))).collect();
    let busy = fields.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4 | 7));
    busy.map(|(_, ticks)| ticks).sum::<u64>() * (1_000_000 / TICKS)
}

fn kib(memory: &str, name: &str) -> u64 {
    let line = memory.lines().find_map(|line| line.strip_prefix(name));
    number(line.and_then(|line| line.split_whitespace().next()))
}

/// Read and written, of whole disks: a partition's counts are in its disk's.
fn disks(stats: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in stats.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, name, _, _, read, _, _, _, written, ..] = fields.as_slice() else { continue };
        let whole = name
            .strip_prefix("vd")
            .is_some_and(|rest| !rest.contains(|c: char| c.is_ascii_digit()));
        if whole {
            sums.0 += number(Some(read)) * SECTOR;
            sums.1 += number(Some(written)) * SECTOR;
        }
    }
    sums
}

/// Received and sent.
fn network(devices: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in devices.lines() {
        let Some((name, counts)) = line.split_once(':') else { continue };
        if name.trim() != "lo" {
            let counts: Vec<&str> = counts.split_whitespace().collect();
            sums.0 += number(counts.first().copied());
            sums.1 += number(counts.get(8).copied());
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(busy_us("cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 2 3 4\n"), 1_630_000);
        assert_eq!(kib("MemTotal:  1000 kB\nMemAvailable:  600 kB\n", "MemAvailable:"), 600);
        let stats = " 254 0 vda 10 0 8 5 20 0 16 5 0 0 0\n 254 16 vdb 1 0 1 0 0 0 0 0 0 0 0\n \
                     254 1 vda1 10 0 8 5 20 0 16 5 0 0 0\n 7 0 loop0 9 0 9 9 9 0 9 9 0 0 0\n";
        assert_eq!(disks(stats), (9 * 512, 16 * 512));
        let devices = "Inter-|  Receive | Transmit\n face |bytes packets|bytes\n    lo: 9 9 9 9 9 9 9 9 9\n  \
                       eth0: 100 2 0 0 0 0 0 0 200 3 0\n";
        assert_eq!(network(devices), (100, 200));
    }

    #[test]
    fn a_strange_kernel_gives_nothing() {
        assert_eq!(
            (busy_us(""), disks("x"), network("x"), kib("", "MemTotal:")),
            (0, (0, 0), (0, 0), 0)
        );
    }
}

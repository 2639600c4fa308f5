//! One guest through three boots: what it does, what stays after a stop, what after a power cut.

use std::time::{SystemTime, UNIX_EPOCH};

use msb::runtime::VmExit;
use msb_protocol::{ExecFailure, ExecOutput, ExecRequest, ExitStatus};

use crate::guest::{Files, Guest, sh};
use crate::jail::missing;

fn code(code: i32) -> ExecOutput {
    ExecOutput::Exited(ExitStatus::Code(code))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_through_three_boots() {
    let files = Files::new();
    let guest = files.boot().await;
    assert_eq!(missing(guest.vm.jail()), []);
    commands(&guest).await;
    users(&guest).await;
    machine(&guest).await;
    disks(&guest).await;
    zombies(&guest).await;
    guest.sh("echo first > /root/kept").await;
    assert_eq!(guest.shut_down().await, VmExit::Code(0));
    files.assert_upper_is_clean();

    let guest = files.boot().await;
    assert_eq!(guest.sh("cat /root/kept").await.stdout, "first\n");
    guest.sh("echo second > /root/synced; sync; echo lost > /root/maybe").await;
    guest.cut_power().await;

    let guest = files.boot().await;
    let outcome = guest.sh("cat /root/kept /root/synced").await;
    assert_eq!(outcome.stdout, "first\nsecond\n", "{outcome:?}");
    assert_eq!(guest.shut_down().await, VmExit::Code(0));
    files.assert_upper_is_clean();
}

async fn commands(guest: &Guest) {
    let outcome = guest.sh("echo out; echo err >&2; exit 7").await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(outcome.end, code(7));
    let outcome = guest.sh("kill -15 $$").await;
    assert_eq!(outcome.end, ExecOutput::Exited(ExitStatus::Signal(15)));
    let missing = ExecRequest { argv: vec!["nothing".to_owned()], ..ExecRequest::default() };
    let end = guest.run(missing).await.end;
    assert!(matches!(end, ExecOutput::Failed(ExecFailure::NotFound(_))), "{end:?}");
    let outcome = guest.sh("dd if=/dev/zero bs=1024 count=4096 2>/dev/null").await;
    assert_eq!((outcome.stdout.len(), outcome.end), (4 << 20, code(0)));
}

async fn users(guest: &Guest) {
    for (user, expected) in [("nobody", "1000 1000"), ("1000:0", "1000 0"), ("root", "0 0")] {
        let request = ExecRequest {
            user: Some(user.to_owned()),
            cwd: Some("/tmp".to_owned()),
            env: [("WORD".to_owned(), "w".to_owned())].into(),
            ..sh("echo $(id -u) $(id -g) $(pwd) $WORD")
        };
        assert_eq!(guest.run(request).await.stdout, format!("{expected} /tmp w\n"));
    }
    let request = ExecRequest { user: Some("stranger".to_owned()), ..sh("true") };
    let end = guest.run(request).await.end;
    assert!(matches!(end, ExecOutput::Failed(ExecFailure::UnknownUser(_))), "{end:?}");
}

async fn machine(guest: &Guest) {
    assert_eq!(guest.sh("hostname").await.stdout, "kiosk\n");
    let seconds: u64 = guest.sh("date +%s").await.stdout.trim().parse().unwrap();
    let host = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(host.abs_diff(seconds) < 60, "the guest's clock is {seconds}, the host's {host}");
    let outcome = guest.sh("ls /sys/class/net; cat /proc/1/comm").await;
    assert!(!outcome.stdout.contains("eth"), "there is a network: {}", outcome.stdout);
}

/// Root in the guest can write to the image only in its own overlay.
async fn disks(guest: &Guest) {
    let outcome = guest.sh("echo mine > /bin/new && cat /bin/new").await;
    assert_eq!(outcome.stdout, "mine\n", "{outcome:?}");
    for disk in ["vda", "vdb"] {
        let script = format!("dd if=/dev/zero of=/dev/{disk} bs=4096 count=1 conv=fsync");
        let outcome = guest.sh(&script).await;
        assert_ne!(outcome.end, code(0), "{disk} can be written to");
    }
    assert_eq!(guest.sh("cat /etc/passwd | wc -l").await.stdout.trim(), "2");
}

/// Orphans end as children of PID 1, which collects them.
async fn zombies(guest: &Guest) {
    let outcome = guest.sh("for i in 1 2 3 4 5; do (sh -c 'true &' &) ; done").await;
    assert_eq!(outcome.end, code(0));
    let count = "cat /proc/[0-9]*/stat 2>/dev/null | while read a b s r; do echo $s; done";
    let mut states = String::new();
    for _ in 0..20 {
        states = guest.sh(count).await.stdout;
        if !states.contains('Z') {
            return;
        }
    }
    panic!("zombies stay: {states}");
}

//! Finds out whether KVM can run a guest by running one: a processor that counts and halts.
//!
//! The device node alone says little: under nested virtualization, in containers and on machines
//! with a broken firmware setting it opens and then fails, or hangs, at the first guest
//! instruction. Software variants of KVM run every instruction of an ordinary guest through an
//! emulator, a thousand times slower: a kernel takes hours. So the guest does a million steps,
//! in a child with a time limit.
#![allow(clippy::disallowed_methods, reason = "this module starts a process")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};

/// Processor time, so that a loaded machine gives the same answer: the guest takes about a
/// millisecond where the processor runs it, some 50 under nested virtualization that is itself
/// emulated, and a second in an emulator.
const TIME_LIMIT: Duration = Duration::from_millis(400);
/// A guest that hangs uses no processor time.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the attempt failed; also the exit code of the child.
const STAGES: [&str; 8] = [
    "",
    "/dev/kvm cannot be opened",
    "/dev/kvm speaks another version",
    "KVM cannot make a VM",
    "KVM cannot give a VM memory",
    "KVM cannot make a virtual processor",
    "KVM cannot set a virtual processor up",
    "KVM does not run guest code",
];
const OPEN: i32 = 1;
const VERSION: i32 = 2;
const VM: i32 = 3;
const MEMORY: i32 = 4;
const VCPU: i32 = 5;
const SETUP: i32 = 6;
const RUN: i32 = 7;

/// `Err` says what does not work.
pub(super) fn probe() -> Result<(), String> {
    if !std::path::Path::new("/dev/kvm").exists() {
        return Err("/dev/kvm does not exist".to_owned());
    }
    match attempt() {
        Ok(Some(0)) => Ok(()),
        Ok(Some(OPEN)) => {
            Err("/dev/kvm cannot be opened: add yourself to the group that owns it".to_owned())
        }
        Ok(Some(stage)) => {
            Err(usize::try_from(stage).ok().and_then(|stage| STAGES.get(stage)).map_or_else(
                || "KVM ends a program that uses it".to_owned(),
                |text| (*text).to_owned(),
            ))
        }
        Ok(None) => Err("KVM does not run guest code at the speed of the processor".to_owned()),
        Err(error) => Err(format!("KVM could not be tried: {error}")),
    }
}

/// The child's exit code; `None` when it had to be killed.
fn attempt() -> io::Result<Option<i32>> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: like fork: no memory is shared; the child only makes system calls and exits.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            i64::from(libc::CLONE_PIDFD | libc::SIGCHLD),
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            std::ptr::null_mut::<libc::c_int>(),
            0_usize,
        )
    };
    match pid {
        0 => {
            // SAFETY: plain numbers. A guest that hangs must not outlive who waits for it.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let stage = run_guest();
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(stage) }
        }
        1.. => {}
        _ => return Err(io::Error::last_os_error()),
    }
    // SAFETY: the kernel made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let ended = ends_in_time(&pidfd, pid);
    if !ended {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
    }
    let status = rustix::process::waitid(
        WaitId::PidFd(std::os::fd::AsFd::as_fd(&pidfd)),
        WaitIdOptions::EXITED,
    )?;
    Ok(status.filter(|_| ended).map(|status| status.exit_status().unwrap_or(-1)))
}

fn ends_in_time(pidfd: &OwnedFd, pid: libc::pid_t) -> bool {
    let begun = Instant::now();
    loop {
        let left = TIME_LIMIT.saturating_sub(processor_time(pid));
        if left.is_zero() || begun.elapsed() > PATIENCE {
            return false;
        }
        let Ok(left) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

/// What process `pid` has used of processors; nothing, when that is not known.
fn processor_time(pid: libc::pid_t) -> Duration {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls write to a valid structure on the stack.
    let known = unsafe {
        libc::clock_getcpuclockid(pid, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    match (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) {
        (Ok(seconds), Ok(nanos)) if known => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    }
}

/// The code of the stage that failed, or 0.
#[cfg(target_arch = "x86_64")]
fn run_guest() -> i32 {
    match x86::run() {
        Ok(()) => 0,
        Err(stage) => stage,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run_guest() -> i32 {
    VM
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{MEMORY, OPEN, RUN, SETUP, VCPU, VERSION, VM};

    const API_VERSION: i32 = 12;
    const GET_API_VERSION: u64 = 0xae00;
    const CREATE_VM: u64 = 0xae01;
    const GET_VCPU_MMAP_SIZE: u64 = 0xae04;
    const CREATE_VCPU: u64 = 0xae41;
    const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    const SET_TSS_ADDR: u64 = 0xae47;
    const RUN_VCPU: u64 = 0xae80;
    const SET_REGS: u64 = 0x4090_ae82;
    const GET_SREGS: u64 = 0x8138_ae83;
    const SET_SREGS: u64 = 0x4138_ae84;
    const EXIT_HLT: u32 = 5;
    /// `mov ecx, 1000000; again: dec ecx; jnz again; hlt`
    const CODE: [u8; 9] = [0xb9, 0x40, 0x42, 0x0f, 0x00, 0x49, 0x75, 0xfd, 0xf4];
    const PAGE: usize = 4096;
    /// Below 4 GiB and away from the one page of memory.
    const TSS: u64 = 0xfffb_d000;

    /// `struct kvm_userspace_memory_region`.
    #[repr(C)]
    struct Region {
        slot: u32,
        flags: u32,
        guest: u64,
        size: u64,
        host: u64,
    }

    /// `struct kvm_regs`: 16 general registers, then `rip` and `rflags`.
    #[repr(C)]
    struct Registers {
        general: [u64; 16],
        rip: u64,
        rflags: u64,
    }

    /// `struct kvm_segment`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    /// `struct kvm_sregs`: `cs`, `ds`, `es`, `fs`, `gs`, `ss`, then the task register and others.
    #[repr(C)]
    struct Segments {
        code: Segment,
        data: [Segment; 5],
        other: [u64; 10],
        cr0: u64,
        rest: [u64; 10],
    }

    /// A flat 32-bit segment: protected mode runs natively on every processor, real mode does not.
    const fn flat(selector: u16, kind: u8) -> Segment {
        Segment {
            base: 0,
            limit: u32::MAX,
            selector,
            kind,
            present: 1,
            dpl: 0,
            db: 1,
            s: 1,
            l: 0,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        }
    }
    const CODE_SEGMENT: Segment = flat(8, 0xb);
    const DATA_SEGMENT: Segment = flat(16, 0x3);
    const PROTECTED: u64 = 1;
    const _: () = assert!(size_of::<Segments>() == 312);

    pub(super) fn run() -> Result<(), i32> {
        // SAFETY: the calls get valid descriptors and pointers to structures of the size that the
        // request's number states; the guest's one page and the run page live until exit.
        unsafe {
            let kvm = libc::open(c"/dev/kvm".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            check(kvm, OPEN)?;
            if libc::ioctl(kvm, GET_API_VERSION, 0) != API_VERSION {
                return Err(VERSION);
            }
            let vm = check(libc::ioctl(kvm, CREATE_VM, 0), VM)?;
            check(libc::ioctl(vm, SET_TSS_ADDR, TSS), VM)?;
            let page = map(PAGE, -1, MEMORY)?;
            page.copy_from_nonoverlapping(CODE.as_ptr(), CODE.len());
            let region =
                Region { slot: 0, flags: 0, guest: 0, size: PAGE as u64, host: page as u64 };
            check(libc::ioctl(vm, SET_USER_MEMORY_REGION, &raw const region), MEMORY)?;
            let vcpu = check(libc::ioctl(vm, CREATE_VCPU, 0), VCPU)?;
            let size = check(libc::ioctl(kvm, GET_VCPU_MMAP_SIZE, 0), SETUP)?;
            let state = map(usize::try_from(size).map_err(|_| SETUP)?, vcpu, SETUP)?;
            let mut segments = std::mem::zeroed::<Segments>();
            check(libc::ioctl(vcpu, GET_SREGS, &raw mut segments), SETUP)?;
            segments.code = CODE_SEGMENT;
            segments.data = [DATA_SEGMENT; 5];
            segments.cr0 |= PROTECTED;
            check(libc::ioctl(vcpu, SET_SREGS, &raw const segments), SETUP)?;
            let registers = Registers { general: [0; 16], rip: 0, rflags: 2 };
            check(libc::ioctl(vcpu, SET_REGS, &raw const registers), SETUP)?;
            check(libc::ioctl(vcpu, RUN_VCPU, 0), RUN)?;
            // `exit_reason` of `struct kvm_run`.
            let reason = state.add(8).cast::<u32>().read_unaligned();
            if reason == EXIT_HLT { Ok(()) } else { Err(RUN) }
        }
    }

    fn check(result: i32, stage: i32) -> Result<i32, i32> {
        if result < 0 { Err(stage) } else { Ok(result) }
    }

    /// # Safety
    /// `fd` is -1 or a vCPU that has `size` bytes to map.
    unsafe fn map(size: usize, fd: i32, stage: i32) -> Result<*mut u8, i32> {
        let kind = if fd < 0 { libc::MAP_ANONYMOUS | libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of what the caller vouches for.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, kind, fd, 0) };
        if address == libc::MAP_FAILED { Err(stage) } else { Ok(address.cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_where_it_is_used() {
        let mut busy = std::process::Command::new("/bin/sh");
        let mut busy = busy.args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = libc::pid_t::try_from(busy.id()).unwrap();
        let pidfd = rustix::process::Pid::from_raw(pid).unwrap();
        let pidfd =
            rustix::process::pidfd_open(pidfd, rustix::process::PidfdFlags::empty()).unwrap();
        assert!(!ends_in_time(&pidfd, pid));
        assert!(processor_time(pid) > Duration::ZERO);
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert_eq!(processor_time(pid), Duration::ZERO);
    }

    #[test]
    fn says_yes_or_why_not() {
        match probe() {
            Ok(()) => assert!(std::path::Path::new("/dev/kvm").exists()),
            Err(reason) => {
                assert!(reason.contains("KVM") || reason.contains("/dev/kvm"), "{reason}")
            }
        }
    }
}

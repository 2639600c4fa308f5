//! The body of `msb __krun`: from the configuration on a descriptor to the end of the guest.
#![allow(clippy::disallowed_methods, reason = "this process is the VM")]

use std::error::Error;
use std::ffi::{CString, c_char};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

#[cfg(feature = "krun-bundled")]
use krun as sys;
#[cfg(feature = "krun-system")]
use krun_sys as sys;

use super::{AGENT_FD, CONFIG_FD, CONSOLE_FD, Config, FILES_FD, KERNEL_WORDS, REPORT_FD};
use crate::runtime::jail::{Filter, guest_filter};
use crate::runtime::report::Report;
use crate::spec::DiskFormat;

/// The longest configuration, in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// libkrun looks at an array of this many pointers, up to the first null.
const MAX_WORDS: usize = 4096;
const RAW: u32 = 0;
const QCOW2: u32 = 1;
/// Flushes of the guest reach the disk.
const SYNC_FULL: u32 = 2;
const STDERR: RawFd = 2;
const LOG_ERRORS: u32 = 1;
const STYLE_NEVER: u32 = 2;
const NO_ENVIRONMENT: u32 = 1;

/// Runs the VM. Returns only when it could not be started.
pub fn run() -> ExitCode {
    // SAFETY: plain numbers.
    let is_open = |fd: RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if ![CONFIG_FD, REPORT_FD, AGENT_FD, CONSOLE_FD].into_iter().all(is_open) {
        let _ = writeln!(io::stderr(), "only `msb` itself starts a VM");
        return ExitCode::FAILURE;
    }
    // SAFETY: the supervisor passed both, and nothing else in this process uses them.
    let (config, report) = unsafe { (File::from_raw_fd(CONFIG_FD), File::from_raw_fd(REPORT_FD)) };
    let ready = read(config).and_then(|config| Ok((set_up(&config)?, config.require_jail)));
    let filter = guest_filter().map_err(io::Error::from).and_then(Filter::install_for_all_threads);
    let filter = filter.err().map(|error| error.to_string());
    Report { error: ready.as_ref().err().cloned(), filter: filter.clone() }.send(report);
    let ready = ready.and_then(|(context, required)| match filter {
        // The supervisor refuses it too, but the guest must not run until it has.
        Some(why) if required => Err(why),
        _ => Ok(context),
    });
    let why = ready.map_or_else(
        |why| why,
        |context| {
            #[allow(unused_unsafe, reason = "generated bindings make every function unsafe")]
            // SAFETY: the context is complete. The call takes this process over.
            let code = unsafe { sys::krun_start_enter(context) };
            format!("libkrun cannot start the guest: {}", error_of(code))
        },
    );
    // Standard error is the console, which is quoted when a guest does not come up.
    let _ = writeln!(io::stderr(), "{why}");
    ExitCode::FAILURE
}

fn read(file: File) -> Result<Config, String> {
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("the configuration: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("the configuration: {error}"))
}

/// Everything up to the start of the guest.
fn set_up(config: &Config) -> Result<u32, String> {
    load_kernel(config)?;
    // SAFETY: strings are terminated and outlive the calls, which copy them; the descriptors are
    // open until this process ends.
    unsafe {
        check("log", sys::krun_init_log(STDERR, LOG_ERRORS, STYLE_NEVER, NO_ENVIRONMENT))?;
        let context = sys::krun_create_ctx();
        let context = u32::try_from(context).map_err(|_| failed("context", context))?;
        check("size", sys::krun_set_vm_config(context, config.vcpus, config.memory_mib))?;
        check("init", sys::krun_disable_implicit_init(context))?;
        check("vsock", sys::krun_disable_implicit_vsock(context))?;
        check("console", sys::krun_disable_implicit_console(context))?;
        add_ports(context, config.files)?;
        for disk in &config.disks {
            let serial = string(disk.serial.as_bytes())?;
            let path = string(disk.path.as_os_str().as_bytes())?;
            let (id, path, readonly) = (serial.as_ptr(), path.as_ptr(), disk.readonly);
            let format = match disk.format {
                DiskFormat::Raw => RAW,
                DiskFormat::Qcow2 { .. } => QCOW2,
            };
            let added = sys::krun_add_disk3(context, id, path, format, readonly, false, SYNC_FULL);
            check(&format!("disk {}", disk.serial), added)?;
        }
        add_kernel_words(context)?;
        Ok(context)
    }
}

/// By its path first: libkrun looks for it by the name that the library gives itself, and finds the
/// one that is loaded.
fn load_kernel(config: &Config) -> Result<(), String> {
    // SAFETY: the library holds the kernel as data and functions that return its address.
    let library = unsafe { libloading::Library::new(&config.library) };
    let library = library.map_err(|error| {
        // The loader's own words, which name the file.
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        format!("the kernel cannot be loaded: {why}")
    })?;
    std::mem::forget(library);
    Ok(())
}

/// The console first: the kernel writes to port 0.
unsafe fn add_ports(context: u32, files: bool) -> Result<(), String> {
    let mut ports = vec![(msb_protocol::PORT_NAME, AGENT_FD)];
    if files {
        ports.push((msb_protocol::FILES_PORT_NAME, FILES_FD));
    }
    // SAFETY: as in `set_up`.
    unsafe {
        let device = sys::krun_add_virtio_console_multiport(context);
        let device = u32::try_from(device).map_err(|_| failed("ports", device))?;
        let console = c"console".as_ptr();
        let added = sys::krun_add_console_port_tty(context, device, console, CONSOLE_FD);
        check("console port", added)?;
        for (port, fd) in ports {
            let name = string(port.as_bytes())?;
            let added = sys::krun_add_console_port_inout(context, device, name.as_ptr(), fd, fd);
            check(&format!("port {port}"), added)?;
        }
        Ok(())
    }
}

unsafe fn add_kernel_words(context: u32) -> Result<(), String> {
    let words: Vec<CString> =
        KERNEL_WORDS.iter().map(|word| string(word.as_bytes())).collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.resize(MAX_WORDS, std::ptr::null());
    // SAFETY: the array is as long as libkrun takes it for, its strings outlive the call.
    check("kernel words", unsafe { sys::krun_set_env(context, pointers.as_ptr()) })
}

fn string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "the configuration: a zero byte".to_owned())
}

fn check(what: &str, code: i32) -> Result<(), String> {
    if code < 0 { Err(failed(what, code)) } else { Ok(()) }
}

fn failed(what: &str, code: i32) -> String {
    format!("libkrun refuses the {what}: {}", error_of(code))
}

/// libkrun returns negative error numbers.
fn error_of(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code.saturating_neg())
}

//! Rows 10 and 11 of the performance table: spawn → agent ready, against a bare boot of the same
//! kernel to a trivial init by the same VMM, interleaved in one run.
//!
//! `MSB_DRIVER` chooses the driver, qemu by default. Needs `cc`, or the trivial init, built before,
//! in `MSB_BENCH_INIT`.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark starts programs, measures and prints"
)]

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use msb::home::Home;
use msb::image::erofs::{Attr, Builder};
use msb::rootfs;
use msb::runtime::{Disk, Driver, DriverChoice, Krun, VmConfig, driver, setup};
use msb::spec::{ByteSize, DiskFormat};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAIRS: usize = 5;
const WARM_UP: usize = 1;
/// Writes one line and ends the machine, without a C library.
const INIT: &str = r#"
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
void _start(void) {
    call(1, 1, (long)"READY\n", 6);
    call(169, 0xfee1dead, 672274793, 0x1234567);
    for (;;) { }
}
"#;

fn main() -> Result<()> {
    let home = Home::at(Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm-home"));
    home.create()?;
    setup::install(&home, &mut |_| {})?;
    let dir = tempfile::tempdir()?;
    let driver = chosen(&home)?;
    let vm = config(&home, dir.path())?;
    let bare_disk = bare_disk(dir.path())?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + PAIRS {
        let alone = if driver.name() == Krun::NAME { bare_krun } else { bare_qemu };
        let pair = (boot_ours(&*driver, &vm)?, alone(&*driver, &vm, &bare_disk)?);
        if round >= WARM_UP {
            ours.push(pair.0);
            bare.push(pair.1);
        }
    }
    let (ours, bare) = (Summary::of(ours), Summary::of(bare));
    println!("{:<34} {:>9} {:>9}", format!("boot by {}", driver.name()), "median", "minimum");
    println!("{:<34} {:>7.0}ms {:>7.0}ms", "spawn to agent ready", ours.median, ours.minimum);
    println!(
        "{:<34} {:>7.0}ms {:>7.0}ms",
        "bare kernel to trivial init", bare.median, bare.minimum
    );
    println!(
        "{:<34} {:>8.2}x {:>8.2}x   gate 1.15x, aim 1.05x",
        "ratio",
        ours.median / bare.median,
        ours.minimum / bare.minimum
    );
    Ok(())
}

struct Summary {
    median: f64,
    minimum: f64,
}

impl Summary {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        Self { median: ms(times[times.len() / 2]), minimum: ms(times[0]) }
    }
}

fn config(home: &Home, dir: &Path) -> Result<VmConfig> {
    let upper = dir.join("upper.ext4");
    rootfs::create_disk(&upper, ByteSize::from_mib(1024))?;
    let boot = rootfs::boot_disk(home)?;
    Ok(VmConfig {
        run_id: "bench".to_owned(),
        sandbox: "bench".to_owned(),
        require_jail: false,
        kernel: setup::kernel(home)?,
        vcpus: 1,
        memory_mib: 512,
        disks: vec![
            disk("boot", &boot, true),
            disk("image", &boot, true),
            disk("upper", &upper, false),
        ],
        files: false,
    })
}

fn disk(serial: &str, path: &Path, readonly: bool) -> Disk {
    Disk { serial: serial.to_owned(), path: path.to_owned(), readonly, format: DiskFormat::Raw }
}

fn chosen(home: &Home) -> Result<Box<dyn Driver>> {
    let name = std::env::var("MSB_DRIVER").unwrap_or_else(|_| "qemu".to_owned());
    let choice: DriverChoice = name.parse()?;
    if choice == DriverChoice::Krun {
        let krun = Krun::find(home).map_err(|error| error.to_string())?;
        return Ok(Box::new(krun.program(env!("CARGO_BIN_EXE_msb").into())));
    }
    Ok(driver(choice, home).map_err(|error| error.help)?.driver)
}

fn bare_disk(dir: &Path) -> Result<PathBuf> {
    let (program, disk) = (trivial_init(dir)?, dir.join("bare.erofs"));
    let mut image = Builder::new(File::create(&disk)?)?;
    image.bytes("init.krun", Attr::mode(0o755), &std::fs::read(program)?)?;
    image.dir("dev", Attr::mode(0o755))?;
    image.finish()?;
    Ok(disk)
}

fn trivial_init(dir: &Path) -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("MSB_BENCH_INIT") {
        return Ok(built.into());
    }
    let (source, program) = (dir.join("init.c"), dir.join("init"));
    std::fs::write(&source, INIT)?;
    let flags = ["-static", "-nostdlib", "-O1", "-o"];
    let built = Command::new("cc").args(flags).args([&program, &source]).status()?;
    if built.success() { Ok(program) } else { Err("cc cannot build the trivial init".into()) }
}

/// Until the first byte of the agent's preamble.
fn boot_ours(driver: &dyn Driver, vm: &VmConfig) -> Result<Duration> {
    let (links, host) = driver.links(false)?;
    let begin = Instant::now();
    let _vm = driver.spawn(driver.command(vm), links)?;
    host.agent.set_nonblocking(false)?;
    (&host.agent).read_exact(&mut [0])?;
    Ok(begin.elapsed())
}

/// The same VMM with nothing but the disk.
fn bare_krun(krun: &dyn Driver, vm: &VmConfig, bare: &Path) -> Result<Duration> {
    let vm = VmConfig { disks: vec![disk("boot", bare, true)], ..vm.clone() };
    let (links, host) = krun.links(false)?;
    let begin = Instant::now();
    let _vm = krun.spawn(krun.command(&vm), links)?;
    rustix::io::ioctl_fionbio(&host.console, false)?;
    wait_for_ready(File::from(host.console))?;
    Ok(begin.elapsed())
}

/// The smallest command that boots the kernel, with the same accelerator and kernel words.
fn bare_qemu(qemu: &dyn Driver, vm: &VmConfig, disk: &Path) -> Result<Duration> {
    let command = qemu.command(vm);
    let after = |name: &str| {
        let mut args = command.args.iter();
        args.find(|arg| *arg == name).and_then(|_| args.next()).ok_or("no such argument")
    };
    let drive = format!("id=d,file={},format=raw,if=none,readonly=on", disk.display());
    let (console, theirs) = UnixStream::pair()?;
    let begin = Instant::now();
    let mut child = Command::new(&command.program)
        .args(["-M", "microvm,acpi=off,isa-serial=off", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-no-reboot", "-m", "512M", "-drive", &drive])
        .args(["-device", "virtio-blk-device,drive=d", "-device", "virtio-serial-device"])
        .args(["-chardev", "stdio,id=c", "-device", "virtconsole,chardev=c"])
        .arg("-accel")
        .arg(after("-accel")?)
        .arg("-cpu")
        .arg(after("-cpu")?)
        .arg("-kernel")
        .arg(&vm.kernel.image)
        .arg("-append")
        .arg(after("-append")?)
        .stdin(Stdio::null())
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()?;
    wait_for_ready(console)?;
    let took = begin.elapsed();
    child.wait()?;
    Ok(took)
}

fn wait_for_ready(mut console: impl Read) -> Result<()> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while !said.windows(5).any(|window| window == b"READY") {
        match console.read(&mut buffer)? {
            0 => return Err(String::from_utf8_lossy(&said).into_owned().into()),
            length => said.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(())
}

//! A guest without a network has no way out. This very program tries what a guest can try: it is in
//! the guest's image, with its libraries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use msb::image::erofs::{Attr, Builder};
use msb::runtime::VmExit;
use msb_protocol::{ExecOutput, ExecRequest, ExitStatus};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use crate::guest::Files;

const PROGRAM: &str = "probe";
const LIBRARIES: &str = "lib";
/// The port of a listener on the host's loopback address.
const PORT: &str = "LISTENER";
/// Far longer than any refusal takes; an answer that has to come from somewhere may take longer.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Virtio device numbers: a network card, and a socket to the host.
const NET: &str = "0x0001";
const VSOCK: &str = "0x0013";
/// The address of the host as a vsock peer.
const HOST: u32 = 2;

#[tokio::test]
async fn a_guest_has_no_way_to_any_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let files = Files::with(add_this_program);
    let guest = files.boot().await;
    let loader = loader_and_libraries().0;
    let loader = format!("/{LIBRARIES}/{}", loader.file_name().unwrap().to_str().unwrap());
    let words = ["--library-path", &format!("/{LIBRARIES}"), &format!("/{PROGRAM}")];
    let test = ["--ignored", "--exact", "--nocapture", "network::from_inside"];
    let outcome = guest
        .run(ExecRequest {
            argv: [loader.as_str()]
                .into_iter()
                .chain(words)
                .chain(test)
                .map(str::to_owned)
                .collect(),
            env: [(PORT.to_owned(), listener.local_addr().unwrap().port().to_string())].into(),
            ..ExecRequest::default()
        })
        .await;
    assert_eq!(outcome.end, ExecOutput::Exited(ExitStatus::Code(0)), "{outcome:#?}");
    assert!(outcome.stdout.contains("1 passed"), "{outcome:#?}");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(guest.shut_down().await, VmExit::Code(0));
}

/// The dynamic loader of this process, and everything that it loaded.
fn loader_and_libraries() -> (PathBuf, BTreeSet<PathBuf>) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let files: BTreeSet<PathBuf> = maps
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(5))
        .filter(|path| path.contains(".so"))
        .map(PathBuf::from)
        .collect();
    let name =
        |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("ld-linux");
    (files.iter().find(name).expect("this program has no loader").clone(), files)
}

fn add_this_program(image: &mut Builder) {
    let mut add = |path: String, from: PathBuf| {
        let mut file = File::open(from).unwrap();
        let size = file.metadata().unwrap().len();
        image.file(path, Attr::mode(0o755), size, &mut file).unwrap();
    };
    add(PROGRAM.to_owned(), std::env::current_exe().unwrap());
    for library in loader_and_libraries().1 {
        let name = library.file_name().unwrap().to_str().unwrap();
        add(format!("{LIBRARIES}/{name}"), library.clone());
    }
}

/// Not a test of this machine: what the guest of the test above runs.
#[test]
#[ignore = "another test runs it in its guest"]
fn from_inside() {
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    let interfaces = names("/sys/class/net");
    assert!(interfaces.contains(&"lo".to_owned()), "{interfaces:?}");
    for interface in interfaces {
        let device = format!("/sys/class/net/{interface}/device");
        assert!(!fs::exists(&device).unwrap(), "{interface} is more than software");
    }
    let devices: Vec<String> = names("/sys/bus/virtio/devices")
        .iter()
        .map(|name| fs::read_to_string(format!("/sys/bus/virtio/devices/{name}/device")).unwrap())
        .collect();
    assert!(devices.len() > 2, "{devices:?}");
    let kinds: Vec<&str> = devices.iter().map(|device| device.trim()).collect();
    assert!(!kinds.contains(&NET) && !kinds.contains(&VSOCK), "{kinds:?}");

    let loopback = SocketAddr::from(([127, 0, 0, 1], port));
    let refused = TcpStream::connect_timeout(&loopback, AT_ONCE);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    for address in
        ["1.1.1.1:443", "10.0.2.2:22", "169.254.169.254:80", "[2606:4700:4700::1111]:443"]
    {
        let address: SocketAddr = address.parse().unwrap();
        unreachable(TcpStream::connect_timeout(&address, AT_ONCE), address);
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        // Without IPv6 there is no such socket to begin with.
        match UdpSocket::bind(any) {
            Ok(socket) => unreachable(socket.send_to(b"?", address), address),
            Err(error) => assert!(address.is_ipv6(), "{error}"),
        }
    }
    for port in [22, port.into(), 620, 1024] {
        vsock(port).expect_err("the host answers by vsock");
    }
}

#[track_caller]
fn unreachable<T>(result: io::Result<T>, address: SocketAddr) {
    let error = result.err().unwrap_or_else(|| panic!("{address} can be reached"));
    let no_way = [ErrorKind::NetworkUnreachable, ErrorKind::AddrNotAvailable];
    let no_family = error.raw_os_error() == Some(libc::EAFNOSUPPORT);
    assert!(no_way.contains(&error.kind()) || no_family, "{address}: {error}");
}

fn vsock(port: u32) -> nix::Result<()> {
    let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &VsockAddr::new(HOST, port))
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

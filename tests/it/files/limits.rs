//! A guest that wants too much.

use std::collections::VecDeque;
use std::fs;

use super::client::*;

/// More than a server holds descriptors for.
const MANY: usize = 40_000;
/// What a server of this test may hold: the machine's limit may be lower, never higher.
const MAX_DESCRIPTORS: usize = 34_000;
/// Requests on their way.
const WINDOW: usize = 500;
/// Rounds of ten thousand lookups, each forgotten.
const ROUNDS: usize = 30;
/// What a server may take, in KiB, with all of it looked up.
const MAX_MEMORY: usize = 150 << 10;

fn name(number: usize) -> String {
    format!("{:x}/{number}", number % 16)
}

fn descriptors(client: &Client) -> usize {
    fs::read_dir(format!("/proc/{}/fd", client.server.pid())).unwrap().count()
}

/// Memory that is not shared, in KiB.
fn memory(client: &Client) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", client.server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Asks everything, some of it at a time; the answers in their order.
fn pipelined(
    client: &mut Client,
    asked: impl Iterator<Item = (u32, u64, Vec<u8>)>,
    mut each: impl FnMut(usize, Answer),
) {
    let mut waiting = VecDeque::new();
    let mut early = std::collections::HashMap::new();
    let mut next = 0;
    let mut take = |client: &mut Client, waiting: &mut VecDeque<u64>| {
        let wanted = waiting.pop_front().unwrap();
        while !early.contains_key(&wanted) {
            let (unique, answer) = client.receive().unwrap();
            early.insert(unique, answer);
        }
        each(next, early.remove(&wanted).unwrap());
        next += 1;
    };
    for (op, node, body) in asked {
        if waiting.len() == WINDOW {
            take(client, &mut waiting);
        }
        waiting.push_back(client.ask(op, node, &body));
    }
    while !waiting.is_empty() {
        take(client, &mut waiting);
    }
}

#[test]
fn more_files_than_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    for below in 0..16 {
        fs::create_dir(dir.path().join(format!("{below:x}"))).unwrap();
    }
    for number in 0..MANY {
        fs::File::create(dir.path().join(name(number))).unwrap();
    }
    let mut client = Client::start(vec![files(dir.path())]);
    let dirs: Vec<_> = (0..16).map(|n| client.walk(&format!("{n:x}")).unwrap().node).collect();
    // All of them, twice, and nothing is forgotten.
    let mut nodes = vec![0; MANY];
    let lookups = (0..2 * MANY).map(|number| number % MANY);
    let requests = lookups.map(|n| (LOOKUP, dirs[n % 16], Body::default().name(n.to_string()).0));
    pipelined(&mut client, requests, |number, answer| {
        nodes[number % MANY] = Attr::of_entry(&answer.unwrap()).node;
    });
    assert!(descriptors(&client) < MAX_DESCRIPTORS, "{}", descriptors(&client));
    assert!(memory(&client) < MAX_MEMORY, "{}", memory(&client));
    let all = nodes.clone();
    let asked = all.iter().map(|node| (GETATTR, *node, vec![0; 16]));
    pipelined(&mut client, asked, |number, answer| {
        assert_eq!(Attr::parse(&answer.unwrap()[16..]).node, nodes[number]);
    });
    // One that is gone or another is not found again by its name.
    for number in 0..100 {
        fs::remove_file(dir.path().join(name(number))).unwrap();
        fs::File::create(dir.path().join(format!("new{number}"))).unwrap();
        fs::rename(dir.path().join(format!("new{number}")), dir.path().join(name(number))).unwrap();
    }
    for (number, node) in nodes.iter().take(100).enumerate() {
        match client.getattr(*node) {
            Ok(attr) => assert_eq!(attr.nlink, 0, "{number}"),
            Err(error) => assert_eq!(error, libc::ESTALE, "{number}"),
        }
    }
    // Too many open files are the guest's own trouble.
    let open = Body::default().n32(0).n32(0).0;
    let asked = nodes.iter().skip(100).map(|node| (OPEN, *node, open.clone()));
    let (mut handles, mut refused) = (Vec::new(), 0);
    pipelined(&mut client, asked, |number, answer| match answer {
        Ok(answer) => handles.push((nodes[number + 100], u64_at(&answer, 0))),
        Err(error) => {
            assert!([libc::ENFILE, libc::EMFILE].contains(&error), "{error}");
            refused += 1;
        }
    });
    assert!(handles.len() > 100 && refused > 100, "{} {refused}", handles.len());
    assert!(descriptors(&client) < MAX_DESCRIPTORS);
    assert!(client.walk("f/15").is_ok());
    let (node, handle) = handles.pop().unwrap();
    client.release(RELEASE, node, handle).unwrap();
    assert!(client.open(node, libc::O_RDONLY).is_ok());
    // What is forgotten is let go.
    for node in nodes {
        client.tell(FORGET, node, &2_u64.to_le_bytes());
    }
    for (node, handle) in handles {
        client.release(RELEASE, node, handle).unwrap();
    }
    let root = client.share(0);
    lets_go(&mut client, root);
}

/// Forgetting has no answer, and several threads serve: the server is asked other things meanwhile.
fn lets_go(client: &mut Client, root: u64) {
    for _ in 0..10_000 {
        if descriptors(client) < 100 {
            return;
        }
        client.getattr(root).unwrap();
    }
    panic!("{} descriptors are held", descriptors(client));
}

#[test]
fn lookups_without_end() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..1000 {
        fs::File::create(dir.path().join(number.to_string())).unwrap();
    }
    let mut client = Client::start(vec![files(dir.path())]);
    let root = client.share(0);
    let mut before = 0;
    for round in 0..ROUNDS {
        let mut nodes = Vec::new();
        let requests = (0..10_000)
            .map(|n: usize| (LOOKUP, root, Body::default().name((n % 1000).to_string()).0));
        pipelined(&mut client, requests, |_, answer| {
            nodes.push(Attr::of_entry(&answer.unwrap()).node);
        });
        // As a kernel does it: many at a time.
        for some in nodes.chunks(500) {
            let count = u32::try_from(some.len()).unwrap();
            let mut body = Body::default().n32(count).n32(0);
            for node in some {
                body = body.n64(*node).n64(1);
            }
            client.tell(BATCH_FORGET, 0, &body.0);
        }
        client.getattr(root).unwrap();
        if round == 5 {
            before = memory(&client);
        }
    }
    assert!(memory(&client) < before + (4 << 10), "{before} {}", memory(&client));
    lets_go(&mut client, root);
}

//! The corpus of the fuzz targets (`fuzz/`), and variants of it, by the same functions.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use msb_protocol::{FsErrorKind, FsFailure, Node, Preamble, TreeItem, append_data, append_message};
use proptest::prelude::*;

#[path = "../../fuzz/entries.rs"]
mod entries;

type Entry = fn(&[u8]);

const ENTRIES: [(&str, Entry); 5] = [
    ("frames", entries::frames),
    ("messages", entries::messages),
    ("mux_host", entries::mux_host),
    ("mux_agent", entries::mux_agent),
    ("transfer", entries::transfer),
];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// The inputs of a target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(corpus(target)).unwrap();
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_input_is_survived() {
    for (target, entry) in ENTRIES {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "{target}");
        for (name, input) in inputs {
            eprintln!("{target}/{name}");
            entry(&input);
        }
    }
}

/// A change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set {
        at: usize,
        to: u8,
    },
    Flip {
        at: usize,
        bit: u32,
    },
    Cut {
        at: usize,
    },
    Remove {
        at: usize,
        length: usize,
    },
    Repeat {
        at: usize,
        length: usize,
        times: usize,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    /// The rest is that of another input.
    Splice {
        at: usize,
        other: usize,
        from: usize,
    },
}

fn change() -> impl Strategy<Value = Change> {
    let (at, length) = (any::<usize>(), 1..40_usize);
    let extreme = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()];
    prop_oneof![
        (at, extreme).prop_map(|(at, to)| Change::Set { at, to }),
        (at, 0..8_u32).prop_map(|(at, bit)| Change::Flip { at, bit }),
        at.prop_map(|at| Change::Cut { at }),
        (at, length.clone()).prop_map(|(at, length)| Change::Remove { at, length }),
        (at, length, 1..30_usize).prop_map(|(at, length, times)| Change::Repeat {
            at,
            length,
            times
        }),
        (at, prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        (at, any::<usize>(), any::<usize>()).prop_map(|(at, other, from)| Change::Splice {
            at,
            other,
            from
        }),
    ]
}

fn changed(mut input: Vec<u8>, change: &Change, all: &[(String, Vec<u8>)]) -> Vec<u8> {
    let within = |at: usize| at % (input.len() + 1);
    let end = |at: usize, length: usize| (within(at) + length).min(input.len());
    match change {
        Change::Set { at, to } => {
            let at = within(*at);
            input.get_mut(at).into_iter().for_each(|byte| *byte = *to);
        }
        Change::Flip { at, bit } => {
            let at = within(*at);
            input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
        }
        Change::Cut { at } => input.truncate(within(*at)),
        Change::Remove { at, length } => drop(input.drain(within(*at)..end(*at, *length))),
        Change::Repeat { at, length, times } => {
            let (at, end) = (within(*at), end(*at, *length));
            let piece = input[at..end].repeat(*times);
            input.splice(at..at, piece);
        }
        Change::Insert { at, bytes } => {
            let at = within(*at);
            input.splice(at..at, bytes.iter().copied());
        }
        Change::Splice { at, other, from } => {
            input.truncate(within(*at));
            let other = &all[other % all.len()].1;
            input.extend_from_slice(&other[from % (other.len() + 1)..]);
        }
    }
    input
}

proptest! {
    #[test]
    fn variants_of_inputs_are_survived(
        target in 0..ENTRIES.len(),
        input in any::<usize>(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let (target, entry) = ENTRIES[target];
        let all = inputs(target);
        let input = all[input % all.len()].1.clone();
        entry(&changes.iter().fold(input, |input, change| changed(input, change, &all)));
    }
}

/// What is committed is what this makes: real messages, trees and streams, and those of an attacker.
/// What a fuzzer has found is beside it, under other names. `UPDATE_EXPECT=1` writes it.
#[test]
fn the_corpus_can_be_made_again() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for (target, seeds) in [
        ("messages", messages()),
        ("frames", frames()),
        ("mux_host", mux(true)),
        ("mux_agent", mux(false)),
        ("transfer", trees()),
    ] {
        let dir = corpus(target);
        for (name, bytes) in seeds {
            let path = dir.join(name);
            if update {
                fs::create_dir_all(&dir).unwrap();
                fs::write(path, bytes).unwrap();
            } else {
                let there = fs::read(&path).unwrap_or_default();
                assert!(there == bytes, "{}: UPDATE_EXPECT=1 writes it", path.display());
            }
        }
    }
}

type Seeds = BTreeMap<String, Vec<u8>>;

/// The wire form of every message.
fn messages() -> Seeds {
    let golden = include_str!("../../agent/protocol/golden/messages.txt");
    let lines = golden.lines().map(|line| {
        let (name, hex) = line.split_once(' ').unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (name.to_owned(), (0..hex.len()).step_by(2).map(byte).collect())
    });
    lines.chain([("nested".to_owned(), vec![0x81; 200])]).collect()
}

fn data(bytes: &mut Vec<u8>, fd: u8, payload: &[u8]) {
    let fill = |space: &mut [u8]| {
        space.copy_from_slice(payload);
        Ok(payload.len())
    };
    append_data(bytes, fd, payload.len(), fill).unwrap();
}

fn frames() -> Seeds {
    let mut session = Vec::new();
    for (_, message) in messages().into_iter().filter(|(name, _)| name.starts_with("exec.")) {
        let length = u32::try_from(message.len()).unwrap().to_le_bytes();
        session.extend([&[0][..], &length, &message].concat());
        data(&mut session, 1, b"output\n");
    }
    let header = |kind: u8, length: u32| [&[kind][..], &length.to_le_bytes()].concat();
    BTreeMap::from([
        ("session".to_owned(), session.clone()),
        ("cut".to_owned(), session[..session.len() - 3].to_vec()),
        ("4-gib".to_owned(), header(0, u32::MAX)),
        ("too-long".to_owned(), header(1, (256 << 10) + 1)),
        ("longest-cut".to_owned(), header(0, 1 << 20)),
        ("unknown-kind".to_owned(), header(4, 0)),
        ("empty".to_owned(), [header(1, 0), header(2, 0), header(3, 0), header(0, 0)].concat()),
    ])
}

/// A frame of the layer below: type, flags (1 SYN, 2 ACK, 4 FIN, 8 RST), stream, length.
fn carried(kind: u8, flags: u16, stream: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a guest says to a host that has opened the streams 1, 3 and 5; or a host to a guest.
fn mux(by_guest: bool) -> Seeds {
    let first = if by_guest { 2 } else { 1 };
    let said = |flags, stream, payload: &[u8]| {
        carried(0, flags, stream, u32::try_from(payload.len()).unwrap(), payload)
    };
    let opened: Vec<u8> =
        [1, 3, 5].iter().flat_map(|stream| said(first, *stream, b"one")).collect();
    let with = |rest: Vec<u8>| [opened.clone(), rest].concat();
    let small: Vec<u8> =
        (0..60).flat_map(|n| said(0, [1, 3, 5, 7][n % 4], &b"abcdefgh"[..n % 9])).collect();
    let seeds = [
        (
            "session",
            with(
                [said(0, 1, b"two"), said(4, 1, b"end"), said(4, 3, b""), said(8, 5, b"")].concat(),
            ),
        ),
        ("small", with([small.clone(), said(4, 1, b"")].concat())),
        ("small-cut", with(small[..small.len() - 2].to_vec())),
        ("mixed", with([small, said(0, 1, &[7; 9000]), said(0, 1, b"x")].concat())),
        ("windows", with([carried(1, 0, 1, 1000, b""), carried(1, 4, 3, 0, b"")].concat())),
        (
            "credit",
            with([carried(1, 0, 1, u32::MAX, b""), carried(1, 0, 1, u32::MAX, b"")].concat()),
        ),
        ("pings", with([carried(2, 1, 0, 7, b""), carried(2, 2, 0, 7, b"")].concat())),
        ("goodbye", with(carried(3, 0, 0, 0, b""))),
        ("complaint", with(carried(3, 0, 0, 1, b""))),
        ("of-its-own", with([carried(1, 1, 2, 0, b""), carried(1, 1, 9, 0, b"")].concat())),
        ("again", with(carried(1, 1, 1, 0, b""))),
        ("4-gib", with(carried(0, 0, 1, u32::MAX, b"x"))),
        ("over-window", with(said(0, 1, &vec![0; (256 << 10) + 1]))),
        ("unknown", with([carried(9, 0, 1, 0, b""), said(0, 99, b"x")].concat())),
        ("preamble", Preamble::OURS.encode().to_vec()),
    ];
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

fn trees() -> Seeds {
    let node = |name: &str| Node { name: name.into(), mode: 0o755, ..Node::default() };
    let dir = |name: &str| TreeItem::Dir(node(name));
    let file = |name: &str, size| TreeItem::File { node: node(name), size };
    let link = |name: &str, to: &str| TreeItem::Symlink { node: node(name), target: to.into() };
    let hard = |name: &str, to: &[&str]| TreeItem::HardLink {
        name: name.into(),
        to: to.iter().map(|part| (*part).into()).collect(),
    };
    let failure = FsFailure { kind: FsErrorKind::Other, path: "x".into(), message: "no".into() };
    let tree = |items: &[TreeItem]| {
        let mut bytes = Vec::new();
        for item in items {
            append_message(&mut bytes, item).unwrap();
            if let TreeItem::File { size: 5, .. } = item {
                data(&mut bytes, 0, b"hello");
            }
        }
        bytes
    };
    let skipped = TreeItem::Skipped { path: "s".into(), why: "a socket".into() };
    let (end, done) = (TreeItem::End, TreeItem::Finished);
    let all = [
        dir("a"),
        dir("b"),
        file("f", 5),
        end.clone(),
        link("l", "../x"),
        hard("h", &["b", "f"]),
        skipped,
        end.clone(),
        file("sparse", 9000),
        TreeItem::Hole(9000),
        end.clone(),
        end.clone(),
        done.clone(),
    ];
    let one = [file("f", 5), end.clone(), done.clone()];
    let vast =
        [file("f", u64::MAX), TreeItem::Hole(1 << 62), TreeItem::Hole(u64::MAX), end.clone()];
    let deep: Vec<TreeItem> = (0..300).map(|_| dir("d")).collect();
    let seeds = [
        ("tree", tree(&all)),
        ("cut", tree(&all)[..60].to_vec()),
        ("file", tree(&one)),
        ("link", tree(&[link("l", "/etc/passwd"), done.clone()])),
        ("up", tree(&[dir("a"), dir(".."), file("f", 5), end.clone()])),
        ("path", tree(&[dir("a"), file("../outside/x", 5), end.clone()])),
        (
            "planted",
            tree(&[dir("a"), link("l", "../../outside"), dir("l"), file("x", 5), end.clone()]),
        ),
        ("hard", tree(&[dir("a"), hard("x", &["..", "outside", "secret"])])),
        ("vast", tree(&vast)),
        ("deep", tree(&deep)),
        ("failed", tree(&[dir("a"), TreeItem::Failed(failure)])),
        ("ends", tree(&[end.clone(), end, done])),
    ];
    seeds.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

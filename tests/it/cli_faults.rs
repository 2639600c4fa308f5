//! A disk that is full, a database that is lost, newer or damaged: a clear error, running sandboxes
//! untouched, nothing half made, and the next `up` works.

use std::fs::{self, OpenOptions};
use std::process::Command;

use crate::environment::{Environment, PAIR, Ran};

fn running() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", PAIR);
    env.msb("up -d").expect(0);
    env
}

/// Takes the database away, with what SQLite keeps beside it.
fn take_database(env: &Environment) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let database = env.home().database();
    ["", "-wal", "-shm"]
        .into_iter()
        .map(|suffix| database.with_file_name(format!("msb.db{suffix}")))
        .filter_map(|path| {
            let bytes = fs::read(&path).ok()?;
            fs::remove_file(&path).unwrap();
            Some((path, bytes))
        })
        .collect()
}

#[test]
fn a_lost_database_is_made_again_from_the_directories() {
    let env = running();
    let before = env.rows();
    take_database(&env);
    let ran = env.msb("ps").expect(0);
    assert!(ran.stderr.contains("the database was lost: took over 2 sandboxes"), "{}", ran.stderr);
    let after = env.rows();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.id, &before.run), (&after.id, &after.run));
        assert_eq!((&before.spec_hash, after.status), (&after.spec_hash, before.status));
    }
    env.msb("plan --detailed-exitcode").expect(0);
    env.msb("exec a -- true").expect(0);
    env.msb("up -d").expect(0);
    assert_eq!(env.rows()[0].run, before[0].run);
    env.msb("down").expect(0);
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn a_lost_database_of_stopped_sandboxes_starts_them_again() {
    let env = running();
    let before = env.rows();
    env.msb("stop").expect(0);
    take_database(&env);
    env.msb("up -d").expect(0);
    assert_eq!(env.statuses(), ["a running", "b running"]);
    assert_eq!(env.rows()[0].id, before[0].id);
}

/// The error of a command that cannot use the database; sandboxes run on.
fn refused(env: &Environment, running: &[u32], says: &str) {
    for words in ["up -d", "ps", "down"] {
        let ran: Ran = env.msb(words).expect(1);
        assert!(ran.stderr.contains(says), "{words}: {}", ran.stderr);
    }
    for pid in running {
        assert!(fs::exists(format!("/proc/{pid}/stat")).unwrap(), "{pid} ended");
    }
}

#[test]
fn a_damaged_or_newer_database_is_refused_and_nothing_is_touched() {
    let env = running();
    let before = env.rows();
    let pids: Vec<u32> = before.iter().filter_map(|row| Some(row.run.as_ref()?.pid)).collect();
    let database = env.home().database();
    let saved = take_database(&env);

    fs::write(&database, "SQLite format 3\0 and then nothing").unwrap();
    refused(&env, &pids, "cut off after");
    fs::write(&database, vec![0x5a; 64 << 10]).unwrap();
    refused(&env, &pids, "damaged");
    fs::remove_file(&database).unwrap();

    let newer = rusqlite_newer(&database);
    refused(&env, &pids, "a newer version of msb made this database");
    drop(newer);

    // The way that the message names: the damaged file goes, the sandboxes are taken over.
    take_database(&env);
    env.msb("up -d").expect(0);
    let after = env.rows();
    assert_eq!(after.len(), before.len());
    assert_eq!(after[0].run, before[0].run);
    assert!(!saved.is_empty());
}

/// A database of ours with a schema version from the future, left open as another msb would.
fn rusqlite_newer(path: &std::path::Path) -> rusqlite::Connection {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.pragma_update(None, "application_id", 0x6d73_6200).unwrap();
    conn.execute_batch("CREATE TABLE future (x); PRAGMA user_version = 9999;").unwrap();
    conn
}

/// A running sandbox's supervisor does not end because its status cannot be written.
#[test]
fn a_sandbox_outlives_its_database() {
    let env = running();
    let run = env.row("a").run.unwrap();
    let database = env.home().database();
    OpenOptions::new().write(true).open(&database).unwrap().set_len(0).unwrap();
    take_database(&env);
    env.msb("stop b").expect(0);
    assert!(fs::exists(format!("/proc/{}/stat", run.pid)).unwrap());
    env.msb("up -d").expect(0);
    assert_eq!(env.statuses(), ["a running", "b running"]);
    assert_eq!(env.row("a").run, Some(run));
}

/// `up` on a file system of every size from nothing to enough: it fails with a reason or works; with
/// space it works, and nothing is left over.
#[test]
fn a_full_disk_at_any_point_leaves_nothing_half_made() {
    let env = Environment::new();
    // A layer that is as large as everything else together.
    env.write("big", &(0..60_000).map(|n| n.to_string()).collect::<String>());
    let patch = "patches = [{ copy_file = \"./big\", to = \"/big\" }]\n";
    env.write("Sandboxfile", &format!("{PAIR}{patch}"));
    fill_up(&env, "16k 128k 512k 1m 1792k 1856k 1920k 2m 2112k 2240k 2496k 3m 8m");
}

/// The same where the image is a directory, and most of what is made.
#[test]
fn a_full_disk_leaves_nothing_half_made_of_a_directory() {
    let env = Environment::new();
    fs::create_dir(env.project().join("root")).unwrap();
    for part in 0..20_000 {
        let text = format!("{part}").repeat(40);
        if part % 100 == 0 {
            env.write(&format!("root/{part}"), &text);
        }
    }
    env.write("root/big", &(0..300_000).map(|n| n.to_string()).collect::<String>());
    env.write("Sandboxfile", &PAIR.replace("./image", "./root"));
    fill_up(&env, "16k 512k 1m 1536k 2m 2304k 2560k 2816k 3m 3328k 3584k 4m 16m");
}

fn fill_up(env: &Environment, sizes: &str) {
    let script = r#"
        mkdir -p "$MSB_HOME"
        for size in $SIZES; do
            mount -t tmpfs -o size=$size,mode=0700 tmpfs "$MSB_HOME" || exit 90
            "$MSB" up -d 2> "$LOG"
            code=$?
            [ $code = 0 ] || grep -q 'space' "$LOG" || { echo "$size: $code"; cat "$LOG"; exit 91; }
            mount -o remount,size=64m "$MSB_HOME" || exit 92
            "$MSB" up -d 2> "$LOG" || { echo "$size, then space"; cat "$LOG"; exit 93; }
            "$MSB" plan --detailed-exitcode > "$LOG" || { echo "$size, not converged"; cat "$LOG"; exit 94; }
            "$MSB" down 2> "$LOG" || { cat "$LOG"; exit 95; }
            left=$(find "$MSB_HOME/sandboxes" "$MSB_HOME/tmp" "$MSB_HOME/images/blobs" -mindepth 1)
            [ -z "$left" ] || { echo "$size: left $left"; exit 96; }
            # Lazily: the kernel may let go of what has ended a moment later.
            umount --lazy "$MSB_HOME" || exit 97
            echo "$size $code"
        done
    "#;
    assert!(rustix::process::geteuid().is_root(), "mounting needs root: run this test as root");
    let mut command = Command::new("unshare");
    env.prepare(&mut command);
    command
        .args(["--mount", "sh", "-c", script])
        .env("MSB", env!("CARGO_BIN_EXE_msb"))
        .env("LOG", env.root().join("log"))
        .env("SIZES", sizes);
    let ran = env.run(&mut command).expect(0);
    // The sweep is worth something only if it hits both ends.
    let (first, last) = (ran.stdout.lines().next(), ran.stdout.lines().last());
    assert!(first.is_some_and(|line| !line.ends_with(" 0")), "{}", ran.stdout);
    assert!(last.is_some_and(|line| line.ends_with(" 0")), "{}", ran.stdout);
}

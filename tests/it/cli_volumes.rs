//! Volumes by command and by Sandboxfile: what is made, what is kept, what goes, and what a kill in
//! between leaves.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use expect_test::expect;
use msb::store::Store;
use serde_json::Value;

use crate::environment::{Environment, Ran};

const SHOP: &str = r#"
name = "shop"

[sandbox.db]
image = "./image"
cmd = ["sleep", "100000"]
volumes."/data" = { named = "data" }

[volume.data]
quota = "64MiB"
labels = { keep = "yes" }

[volume.idle]
"#;

fn shop() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", SHOP);
    env
}

fn json(ran: Ran) -> Value {
    serde_json::from_str(&ran.expect(0).stdout).unwrap()
}

/// Titles of all volumes.
fn volumes(env: &Environment) -> Vec<String> {
    let Some(store) = Store::open_read_only(&env.home()).unwrap() else { return Vec::new() };
    store.volumes().unwrap().iter().map(|row| row.title()).collect()
}

/// The disk's file of a volume.
fn path(env: &Environment, name: &str) -> PathBuf {
    let found = json(env.msb(&format!("volume inspect {name}")));
    let path = found["volumes"][0]["path"].as_str().unwrap().replace("$TEST", &root(env));
    path.into()
}

fn root(env: &Environment) -> String {
    env.root().to_str().unwrap().to_owned()
}

/// Directories of volumes, and what is half made.
fn directories(env: &Environment) -> usize {
    let count = |dir| fs::read_dir(dir).unwrap().count();
    count(env.home().volumes()) + count(env.home().tmp())
}

#[track_caller]
fn check_disk(path: &std::path::Path) {
    let fsck = Command::new("e2fsck").args(["-f", "-n"]).arg(path).output();
    let fsck = fsck.expect("e2fsck is missing: install it with `apt-get install e2fsprogs`");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}

#[test]
fn made_listed_grown_and_removed_by_command() {
    let env = Environment::new();
    assert_eq!(json(env.msb("volume ls --format json"))["volumes"], Value::Array(Vec::new()));
    env.msb("volume create pg --size 64MiB --label team=db --label a=b=c").expect(0);
    env.msb("volume create shared --kind dir").expect(0);
    let listed = json(env.msb("volume ls --format json"));
    let pg = &listed["volumes"][0];
    assert_eq!((pg["name"].as_str(), &pg["project"]), (Some("pg"), &Value::Null));
    assert_eq!(pg["labels"], serde_json::json!({"team": "db", "a": "b=c"}));
    assert_eq!((&pg["quota_bytes"], &pg["kind"]), (&(64 << 20).into(), &"disk".into()));
    let disk = path(&env, "pg");
    let meta = fs::metadata(&disk).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (64 << 20, 0o600));
    assert_eq!(pg["used_bytes"], meta.blocks() * 512);
    check_disk(&disk);
    assert_eq!(listed["volumes"][1]["quota_bytes"], Value::Null);
    fs::write(path(&env, "shared").join("file"), vec![1; 1 << 20]).unwrap();
    let used = json(env.msb("volume inspect shared"))["volumes"][0]["used_bytes"].as_u64().unwrap();
    assert!((1 << 20..2 << 20).contains(&used), "{used}");

    let resized = env.msb("volume resize pg 1GiB").expect(0);
    assert_eq!(resized.stderr, "volume pg: 1 GiB, from its next mount on\n");
    assert_eq!(fs::metadata(&disk).unwrap().len(), 1 << 30);
    for (words, code, says) in [
        ("volume resize pg 512MiB", 1, "never shrinks"),
        ("volume resize shared 1GiB", 1, "cannot be held to a size"),
        ("volume create pg", 1, "volume `pg` exists"),
        ("volume create Pg", 64, "not allowed in a name"),
        ("volume create a/b", 1, "is the name of a project's volume"),
        ("volume create x --size 1KiB", 1, "between 16 MiB and 16 TiB"),
        ("volume create x --kind dir --size 1GiB", 1, "cannot be held to a size"),
        ("volume create x --label nothing", 64, "key=value"),
        ("-p shop volume create x", 64, "made by `msb up`"),
        ("volume rm nothing", 1, "there is no volume `nothing`"),
        ("volume inspect nothing", 1, "there is no volume `nothing`"),
    ] {
        let ran = env.msb(words).expect(code);
        assert!(ran.stderr.contains(says), "{words}: {}", ran.stderr);
    }
    assert_eq!(volumes(&env), ["pg", "shared"]);
    env.msb("volume rm pg shared").expect(0);
    assert_eq!((volumes(&env).len(), directories(&env)), (0, 0));
}

#[test]
fn a_projects_volume_outlives_replace_and_down() {
    let env = shop();
    let plan = env.msb("plan").expect(0).stdout;
    assert!(plan.contains("create volume data: missing (Sandboxfile:9)"), "{plan}");
    env.msb("up -d").expect(0).ends_with("1 started, 1 volume created");
    // Nobody mounts the other one.
    assert_eq!(volumes(&env), ["shop/data"]);
    let disk = path(&env, "shop/data");
    let ran = env.msb("volume rm data").expect(1);
    assert!(ran.stderr.contains("hint: there is `shop/data`"), "{}", ran.stderr);
    let inode = fs::metadata(&disk).unwrap().ino();
    check_disk(&disk);
    let shown = json(env.msb("inspect db"))["sandboxes"][0]["mounts"].clone();
    assert_eq!(shown[0]["source"], format!("$TEST{}", &disk.to_str().unwrap()[root(&env).len()..]));
    assert_eq!((&shown[0]["path"], &shown[0]["volume"]), (&"/data".into(), &"data".into()));

    let refused = env.msb("volume rm shop/data").expect(1);
    assert!(refused.stderr.contains("in use by sandbox shop/db"), "{}", refused.stderr);
    env.msb("up -d --replace -y").expect(0);
    env.msb("down").expect(0);
    env.msb("up -d").expect(0);
    assert_eq!(fs::metadata(&disk).unwrap().ino(), inode);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");

    env.msb("down").expect(0);
    let table = env.msb("volume ls").expect(0).stdout;
    let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().take(5).collect();
    assert_eq!(words, ["shop", "data", "disk", "64", "MiB"]);
    let asked = env.msb("down -v").expect(7);
    assert!(asked.stderr.contains("volume data goes, with all that it holds"), "{}", asked.stderr);
    env.msb("down -v -y").expect(0).ends_with("1 volume removed");
    assert_eq!((volumes(&env).len(), directories(&env)), (0, 0));
}

#[test]
fn changes_of_a_declared_volume() {
    let env = shop();
    env.msb("up -d").expect(0);
    let disk = path(&env, "shop/data");
    let before = env.row("db").run;
    let edited = SHOP.replace("64MiB", "128MiB").replace("\"yes\"", "\"no\"");
    env.write("Sandboxfile", &edited.replace("[volume.idle]", "protect = true\n[volume.idle]"));
    let up = env.msb("up -d").expect(0);
    up.ends_with("1 unchanged, 1 volume grown, 1 volume updated");
    let says = "grown, in sandbox shop/db from its next start on: the guest cannot make it larger";
    assert!(up.stderr.contains(says), "{}", up.stderr);
    assert_eq!((fs::metadata(&disk).unwrap().len(), env.row("db").run), (128 << 20, before));
    assert_eq!(json(env.msb("-p shop volume inspect data"))["volumes"][0]["labels"]["keep"], "no");

    // Protected by its row too, whatever the file says.
    env.write("Sandboxfile", SHOP);
    let down = env.msb("down -v -y").expect(0);
    assert!(down.stderr.contains("volume data: protected, not removed"), "{}", down.stderr);
    let refused = env.msb("volume rm shop/data").expect(1);
    assert!(refused.stderr.contains("`shop/data` is protected"), "{}", refused.stderr);
    env.msb("volume prune").expect(0).ends_with("nothing to remove");
    let up = env.msb("up -d").expect(0);
    assert!(up.stderr.contains("volume data: a volume never shrinks (Sandboxfile:10:1)"));
    env.msb("down").expect(0);
    assert_eq!(env.msb("volume prune --dry-run").expect(0).stdout.lines().count(), 1);
    env.msb("volume prune").expect(7);
    env.msb("volume prune -y").expect(0);
    assert_eq!((volumes(&env).len(), directories(&env)), (0, 0));
}

#[test]
fn another_kind_is_refused_at_its_line() {
    let env = shop();
    env.msb("up -d").expect(0);
    env.write("Sandboxfile", &SHOP.replace("quota = \"64MiB\"", "kind = \"dir\""));
    expect![[r#"
          × the volume `data` exists as a disk and is declared as another kind
            ╭─[Sandboxfile:10:1]
          9 │ [volume.data]
         10 │ kind = "dir"
            · ────
         11 │ labels = { keep = "yes" }
            ╰────
          help: declare `kind = "disk"`, or `msb volume rm shop/data`, which loses what it holds
        error: 1 error in the Sandboxfile
    "#]]
    .assert_eq(&env.msb("plan").expect(3).stderr);
}

#[test]
fn an_external_volume_is_used_and_left_alone() {
    let env = Environment::new();
    let file = SHOP.replace("quota = \"64MiB\"\nlabels = { keep = \"yes\" }", "external = true");
    env.write("Sandboxfile", &file);
    let missing = env.msb("up -d").expect(3);
    assert!(missing.stderr.contains("Sandboxfile:10:1"), "{}", missing.stderr);
    assert!(missing.stderr.contains("`msb volume create data` makes it"), "{}", missing.stderr);
    assert!(env.rows().is_empty());
    env.msb("volume create data --size 32MiB").expect(0);
    env.msb("up -d").expect(0);
    let refused = env.msb("volume rm data").expect(1);
    assert!(refused.stderr.contains("in use by sandbox shop/db"), "{}", refused.stderr);
    env.msb("down -v -y").expect(0);
    assert_eq!(volumes(&env), ["data"]);
    assert_eq!(fs::metadata(path(&env, "data")).unwrap().len(), 32 << 20);
}

#[test]
fn one_writer_at_a_time() {
    let env = Environment::new();
    env.msb("volume create data --size 32MiB").expect(0);
    for (name, readonly) in [("one", false), ("two", false), ("three", true), ("four", true)] {
        env.write(
            name,
            &format!(
                "name = \"{name}\"\n[sandbox.app]\nimage = \"./image\"\ncmd = [\"sleep\", \"100000\"]\n\
                 volumes.\"/d\" = {{ named = \"data\", readonly = {readonly} }}\n\
                 [volume.data]\nexternal = true\n"
            ),
        );
    }
    env.msb("-f one up -d").expect(0);
    for file in ["two", "three"] {
        let refused = env.msb(&format!("-f {file} up -d")).expect(1);
        let says = "the volume `data` is a disk with one writer at a time, and the sandbox `one/app` has it";
        // By its line and by the error.
        assert_eq!(refused.stderr.matches(says).count(), 2, "{}", refused.stderr);
    }
    env.msb("-f one stop").expect(0);
    env.msb("-f three up -d").expect(0);
    env.msb("-f four up -d").expect(0);
    env.msb("-f one start").expect(1);
}

/// What is only known of an external volume when it is looked up.
#[test]
fn a_disk_is_mounted_once_by_a_sandbox() {
    let env = Environment::new();
    let file = SHOP.replace("quota = \"64MiB\"\nlabels = { keep = \"yes\" }", "external = true");
    let second = "[volume.data]";
    let twice = format!("volumes.\"/more\" = {{ named = \"data\", readonly = true }}\n\n{second}");
    env.write("Sandboxfile", &file.replace(&format!("\n{second}"), &twice));
    env.msb("volume create data --size 32MiB").expect(0);
    expect![[r#"
          × the volume `data` is a disk, and sandbox `db` mounts it twice
           ╭─[Sandboxfile:8:21]
         7 │ volumes."/data" = { named = "data" }
         8 │ volumes."/more" = { named = "data", readonly = true }
           ·                     ─────
         9 │ 
           ╰────
          help: mount it once, above what needs it, or use one of kind `dir`
        error: 1 error in the Sandboxfile
    "#]]
    .assert_eq(&env.msb("up -d").expect(3).stderr);
    assert!(env.rows().is_empty());
    env.msb("volume rm data").expect(0);
    env.msb("volume create data --kind dir").expect(0);
    env.msb("up -d").expect(0);
    env.msb("down").expect(0);
}

#[test]
fn a_lost_database_loses_no_volume() {
    let env = shop();
    env.msb("volume create pg --size 32MiB").expect(0);
    env.msb("up -d").expect(0);
    env.msb("down").expect(0);
    let before = json(env.msb("volume ls --format json"));
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(env.home().root().join(format!("msb.db{suffix}")));
    }
    let ran = env.msb("volume ls --format json").expect(0);
    let says = "the database was lost: took over 2 volumes from their directories";
    assert!(ran.stderr.contains(says), "{}", ran.stderr);
    assert_eq!(json(ran), before);
}

#[test]
fn a_lost_disk_is_told() {
    let env = shop();
    env.msb("up -d").expect(0);
    env.msb("stop").expect(0);
    fs::remove_file(path(&env, "shop/data")).unwrap();
    let ran = env.msb("start").expect(1);
    assert!(ran.stderr.contains("what the volume `shop/data` held is gone"), "{}", ran.stderr);
}

/// A command is killed at each of its failpoints; the next one makes it right.
#[test]
fn killed_at_any_point() {
    for point in ["begun", "volume-before-rename", "volume-before-row"] {
        let env = shop();
        killed(&env, point, "up -d");
        env.msb("up -d").expect(0);
        assert_eq!((volumes(&env), directories(&env)), (vec!["shop/data".to_owned()], 1));
        assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");

        killed(&env, point, "volume create pg --size 32MiB");
        env.msb("volume create pg --size 32MiB").expect(0);
        assert_eq!((volumes(&env).len(), directories(&env)), (2, 2));
    }
    for point in ["begun", "volume-after-row"] {
        let env = shop();
        env.msb("up -d").expect(0);
        killed(&env, point, "down -v -y");
        env.msb("down -v -y").expect(0);
        assert_eq!((volumes(&env).len(), directories(&env)), (0, 0), "{point}");

        env.msb("volume create pg --size 32MiB").expect(0);
        killed(&env, point, "volume rm pg");
        let again = env.msb("volume rm pg");
        assert_eq!(again.code, i32::from(point != "begun"));
        env.msb("volume create other --size 32MiB").expect(0);
        assert_eq!((volumes(&env), directories(&env)), (vec!["other".to_owned()], 1), "{point}");
    }
    let env = shop();
    env.msb("up -d").expect(0);
    env.write("Sandboxfile", &SHOP.replace("64MiB", "128MiB"));
    for point in ["volume-grown", "volume-told"] {
        killed(&env, point, "up -d");
        assert_eq!(fs::metadata(path(&env, "shop/data")).unwrap().len(), 128 << 20);
    }
    // Until its sandbox has been told.
    let up = env.msb("up -d").expect(0);
    assert!(up.stderr.contains("from its next start on"), "{}", up.stderr);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
}

/// Runs `msb` until it reaches a failpoint, where it gets SIGKILL.
fn killed(env: &Environment, point: &str, words: &str) {
    let mut command = env.command();
    command.args(words.split_whitespace()).env("FAILPOINTS", format!("{point}=return"));
    assert_eq!(env.run(&mut command).code, -1, "{point} was not reached by {words}");
}

#[test]
fn what_they_take_is_told() {
    let env = shop();
    env.msb("up -d").expect(0);
    let kinds = json(env.msb("df --format json"))["kinds"].clone();
    let kind = |name: &str| {
        kinds.as_array().unwrap().iter().find(|kind| kind["kind"] == name).unwrap().clone()
    };
    assert_eq!(
        (&kind("volumes")["count"], &kind("volumes")["reclaimable_bytes"]),
        (&1.into(), &0.into())
    );
    assert!(kind("volumes")["disk_bytes"].as_u64().unwrap() > 0);
    assert_eq!(kind("patches")["count"], 0);
}

/// Nothing of a volume is lost where there is no space to say that it is larger.
#[test]
fn a_full_disk_loses_nothing_of_a_volume_that_grows() {
    let env = Environment::new();
    let script = r#"
        set -e
        mkdir -p "$MSB_HOME"
        mount -t tmpfs -o size=64m,mode=0700 tmpfs "$MSB_HOME"
        "$MSB" volume create pg --size 32MiB
        disk=$(echo "$MSB_HOME"/volumes/*/data.ext4)
        cat /dev/zero > "$MSB_HOME/rest" || true
        if "$MSB" volume resize pg 1GiB 2> "$LOG"; then echo "it needs no space"; exit 91; fi
        grep -q space "$LOG" || { cat "$LOG"; exit 92; }
        e2fsck -fn "$disk"
        quota() { "$MSB" volume inspect pg | tr -d ' ,' | grep '"quota_bytes"' | cut -d : -f 2; }
        [ "$(quota)" = 33554432 ] || { "$MSB" volume inspect pg; exit 93; }
        rm "$MSB_HOME/rest"
        "$MSB" volume resize pg 1GiB
        [ "$(quota)" = 1073741824 ] || { "$MSB" volume inspect pg; exit 94; }
        e2fsck -fn "$disk"
    "#;
    assert!(rustix::process::geteuid().is_root(), "mounting needs root: run this test as root");
    let mut command = Command::new("unshare");
    env.prepare(&mut command);
    command.args(["--mount", "sh", "-c", script]);
    command.env("MSB", env!("CARGO_BIN_EXE_msb")).env("LOG", env.root().join("log"));
    env.run(&mut command).expect(0);
}

//! Patches, from the Sandboxfile to the layer of a sandbox, with the `local` driver, which mounts
//! nothing: what a guest sees of the layer is in `tests/vm`.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use expect_test::expect;
use msb::image::erofs::reader::Image;

use crate::environment::{Environment, Ran, layer_layout};

const WEB: &str = r#"
name = "shop"

[sandbox.web]
image = "./image"
cmd = ["sleep", "100000"]
patches = [
  { mkdir = "/app", mode = "0750" },
  { text = "/app/hello", content = "hello\n" },
  { append = "/etc/motd", content = " and more\n" },
  { copy_file = "./config.json", to = "/app/config.json" },
  { copy_dir = "./scripts", to = "/app/scripts" },
  { symlink = "../app/hello", at = "/etc/greeting" },
  { remove = "/etc/nothing" },
]
"#;

fn web() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", WEB);
    env.write("config.json", "{}");
    fs::create_dir(env.project().join("scripts")).unwrap();
    env.write("scripts/run", "run\n");
    fs::set_permissions(env.project().join("scripts/run"), Permissions::from_mode(0o755)).unwrap();
    symlink("run", env.project().join("scripts/link")).unwrap();
    env
}

/// The files of the layer of a sandbox: mode and contents by path.
fn layer(env: &Environment, name: &str) -> BTreeMap<String, String> {
    let path = env.home().sandbox(&env.row(name).id).join("patches.erofs");
    let image = Image::open(File::open(path).unwrap()).unwrap();
    let entries = image.walk().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let leaves = entries.into_iter().filter(|(_, stat)| stat.mode >> 12 != 0o4);
    leaves
        .map(|(path, stat)| {
            (text(path), format!("{:o} {}", stat.mode, text(image.contents(&stat).unwrap())))
        })
        .collect()
}

fn layers(env: &Environment) -> Vec<u64> {
    let entries = fs::read_dir(env.home().patches()).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().nlink()).collect()
}

/// What the diagnostics say, which is wrapped.
pub(crate) fn said(ran: &Ran) -> String {
    let words: Vec<&str> = ran.stderr.split_whitespace().filter(|word| *word != "│").collect();
    words.join(" ")
}

/// Where the diagnostics point.
pub(crate) fn places(ran: &Ran) -> Vec<&str> {
    ran.stderr
        .lines()
        .filter_map(|line| line.split_once("[").map(|(_, rest)| rest))
        .filter_map(|rest| rest.split_once(']').map(|(place, _)| place))
        .filter(|place| place.starts_with("Sandboxfile:"))
        .collect()
}

#[test]
fn patches_become_a_layer_that_a_changed_source_replaces() {
    let env = web();
    env.msb("up -d").expect(0);
    expect![[r#"
        {
            "app/config.json": "100644 {}",
            "app/hello": "100644 hello\n",
            "app/scripts/link": "120777 run",
            "app/scripts/run": "100755 run\n",
            "etc/greeting": "120777 ../app/hello",
            "etc/motd": "100644 one and more\n",
        }
    "#]]
    .assert_debug_eq(&layer(&env, "web"));
    assert_eq!(layers(&env), [2]);
    env.msb("plan --detailed-exitcode").expect(0);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");

    env.write("config.json", "{\"debug\":true}");
    let plan = env.msb("plan --detailed-exitcode").expect(2).stdout;
    let change = plan.lines().find(|line| line.contains("patches")).unwrap().trim();
    assert!(
        change.starts_with("patches.3 $TEST/p/config.json (")
            && change.ends_with(") (replace) Sandboxfile:11"),
        "{plan}"
    );
    let before = env.row("web").id;
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    assert_ne!(env.row("web").id, before);
    assert_eq!(layer(&env, "web")["app/config.json"], "100644 {\"debug\":true}");
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");

    // Modes, new files and links count; times do not.
    let run = env.project().join("scripts/run");
    File::open(&run).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    env.msb("plan --detailed-exitcode").expect(0);
    fs::set_permissions(&run, Permissions::from_mode(0o700)).unwrap();
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    env.write("scripts/more", "");
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    fs::remove_file(env.project().join("scripts/link")).unwrap();
    symlink("more", env.project().join("scripts/link")).unwrap();
    env.msb("up -d -y").expect(0).ends_with("1 replaced");
    assert_eq!(layer(&env, "web")["app/scripts/link"], "120777 more");

    // A stop and a start, and what is declared for another run, keep the layer.
    let before = env.row("web").id;
    fs::remove_file(env.project().join("config.json")).unwrap();
    env.msb("stop").expect(0);
    env.msb("start").expect(0);
    assert_eq!(env.row("web").id, before);
    env.msb("down").expect(0);
    env.msb("images prune -y").expect(0);
    assert_eq!(layers(&env), [0; 0]);
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn sandboxes_with_equal_patches_share_their_layer() {
    let env = web();
    let two = WEB.replace("[sandbox.web]", "[defaults]") + "[sandbox.a]\n[sandbox.b]\n";
    env.write("Sandboxfile", &two);
    env.msb("up -d").expect(0);
    assert_eq!(layers(&env), [3]);
    env.msb("images prune -y").expect(0);
    assert_eq!(layers(&env), [3]);
    env.msb("rm --stop -y a").expect(0);
    assert_eq!(layers(&env), [2]);
}

#[test]
fn a_bad_patch_has_a_place_and_nothing_is_changed() {
    let env = web();
    env.msb("up -d").expect(0);
    let before = env.row("web");
    let motd = "{ append = \"/etc/motd\"";
    for (line, place, message) in [
        ("{ append = \"/etc/issue\"", "Sandboxfile:10:3", "/etc/issue does not exist in the guest"),
        ("{ append = \"/etc\"", "Sandboxfile:10:3", "/etc is a directory"),
        ("{ text = \"/etc/motd\"", "Sandboxfile:10:3", "/etc/motd exists"),
        (
            "{ text = \"/etc/motd/x\"",
            "Sandboxfile:10:3",
            "/etc/motd is not a directory in the guest",
        ),
        ("{ text = \"/proc/x\"", "Sandboxfile:10:12", "`/proc/x` cannot be patched"),
        ("{ text = \"/\"", "Sandboxfile:10:12", "a `text` patch cannot be about `/`"),
    ] {
        env.write("Sandboxfile", &WEB.replace(motd, line));
        let ran = env.msb("up -d -y").expect(3);
        assert!(said(&ran).contains(message), "{}", ran.stderr);
        assert_eq!(places(&ran), [place], "{}", ran.stderr);
    }
    let now = env.row("web");
    assert_eq!((&now.id, &now.run, now.status), (&before.id, &before.run, before.status));
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn a_bad_source_has_a_place_in_plans_too() {
    let env = web();
    let config = "copy_file = \"./config.json\"";
    fs::write(env.root().join("secret"), "s").unwrap();
    symlink("../secret", env.project().join("sneaky")).unwrap();
    for (source, message) in [
        ("copy_file = \"./gone\"", "gone does not exist"),
        ("copy_file = \"../secret\"", "secret is outside of the project directory"),
        ("copy_file = \"/etc/passwd\"", "/etc/passwd is outside of the project directory"),
        ("copy_file = \"./sneaky\"", "sneaky is outside of the project directory"),
        ("copy_file = \"./scripts\"", "scripts is not a regular file"),
        ("copy_dir = \"./config.json\"", "config.json is not a directory"),
    ] {
        env.write("Sandboxfile", &WEB.replace(config, source));
        for command in ["plan", "up -d", "up --dry-run"] {
            let ran = env.msb(command).expect(3);
            assert!(said(&ran).contains(message), "{}", ran.stderr);
            assert_eq!(places(&ran), ["Sandboxfile:11:3"], "{}", ran.stderr);
        }
    }
    assert!(!env.home().database().exists() || env.rows().is_empty());
}

/// The image is pulled first, so that only a step can tell.
#[test]
fn a_patch_that_does_not_fit_a_new_image_fails_before_anything_is_stopped() {
    let env = web();
    env.write("Sandboxfile", &WEB.replace("/etc/motd", "/etc/issue"));
    let ran = env.msb("up -d").expect(3);
    assert_eq!(places(&ran), ["Sandboxfile:10:3"], "{}", ran.stderr);
    assert!(env.rows().is_empty());
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
    env.write("Sandboxfile", WEB);
    env.msb("up -d").expect(0);
    let before = env.row("web");
    layer_layout(&env.project().join("image"), &[0; 1024]);
    let ran = env.msb("up -d -y").expect(3);
    assert_eq!(places(&ran), ["Sandboxfile:10:3"], "{}", ran.stderr);
    let now = env.row("web");
    assert_eq!((&now.id, &now.run, now.status), (&before.id, &before.run, before.status));
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

/// Killed with the layer half made, or made and held by what is half made.
#[test]
fn a_kill_while_the_layer_is_made_leaves_nothing_half_made() {
    let points =
        [("patches-before-rename", 0), ("create-before-rename", 1), ("create-before-row", 1)];
    for (point, made) in points {
        let env = web();
        killed(&env, point);
        assert_eq!(layers(&env).len(), made, "{point}");
        env.msb("up -d").expect(0);
        assert_eq!(layers(&env), [2], "{point}");
        assert!(env.leftovers().is_empty(), "{point}: {:?}", env.leftovers());
    }
}

/// Nobody comes back for what a killed command began.
#[test]
fn what_is_half_made_is_pruned() {
    let env = web();
    env.msb("up -d").expect(0);
    env.write("config.json", "[]");
    killed(&env, "patches-before-rename");
    assert_eq!(env.leftovers().len(), 1);
    assert_eq!(env.statuses(), ["web running"]);
    env.msb("images prune -y").expect(0);
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
    assert_eq!(layers(&env), [2]);
}

/// The layer outlives its name in the cache, and the directory of the sandbox.
#[test]
fn what_is_lost_is_made_again() {
    let env = web();
    env.msb("up -d").expect(0);
    let before = layer(&env, "web");
    env.msb("stop").expect(0);
    fs::remove_dir_all(env.home().patches()).unwrap();
    env.msb("start").expect(0);
    assert_eq!(layer(&env, "web"), before);
    env.msb("stop").expect(0);
    fs::remove_dir_all(env.home().sandbox(&env.row("web").id)).unwrap();
    env.msb("start").expect(0);
    assert_eq!(layer(&env, "web"), before);
    env.msb("stop").expect(0);
    fs::remove_dir_all(env.home().sandbox(&env.row("web").id)).unwrap();
    fs::remove_dir_all(env.home().patches()).unwrap();
    env.write("config.json", "other");
    let ran = env.msb("start").expect(3);
    assert!(said(&ran).contains("config.json has changed since the plan"), "{}", ran.stderr);
}

/// Runs `up` until it reaches a failpoint, where it gets SIGKILL.
fn killed(env: &Environment, point: &str) {
    let mut command = env.command();
    command.args(["up", "-d", "-y"]).env("FAILPOINTS", format!("{point}=return"));
    assert_eq!(env.run(&mut command).code, -1, "{point} was not reached");
}

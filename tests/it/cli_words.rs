//! Commands that need no sandbox, misuse, and files that are wrong.

use expect_test::expect;

use crate::environment::Environment;

#[test]
fn version_is_data() {
    let env = Environment::new();
    assert_eq!(env.msb("version").expect(0).stdout, env.msb("--version").expect(0).stdout);
    let ran = env.msb("version --format json").expect(0);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["schema"], "msb.version/1");
}

#[test]
fn misuse_is_64() {
    let env = Environment::new();
    env.msb("").expect(64);
    env.msb("no-such-command").expect(64);
    env.msb("up --wait-timeout 10").expect(64);
    env.msb("exec web").expect(64);
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\n");
    env.msb("up -d --driver nonsense").expect(64);
}

#[test]
fn a_missing_file_says_what_to_do() {
    let env = Environment::new();
    let ran = env.msb("plan").expect(3);
    expect![[r#"
        error: there is no Sandboxfile in $TEST/p or above it
        hint: `msb init` writes one; `-f FILE` names another
    "#]]
    .assert_eq(&ran.stderr);
    env.msb("plan -f nothing-here").expect(3);
}

#[test]
fn init_writes_a_file_that_is_valid() {
    let env = Environment::new();
    env.msb("init --image ./image").expect(0);
    env.msb("config").expect(0);
    env.msb("init").expect(1);
    env.msb("init --force").expect(0);
}

#[test]
fn a_wrong_file_is_3_and_all_errors_are_shown() {
    let env = Environment::new();
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\ncpus = 0\nmemroy = \"1GiB\"\n");
    for command in ["up -d", "plan", "config", "up --dry-run"] {
        let ran = env.msb(command).expect(3);
        assert!(ran.stderr.contains("memroy"), "{}", ran.stderr);
        assert!(ran.stderr.contains("cpus"), "{}", ran.stderr);
        assert!(ran.stderr.contains("2 errors in the Sandboxfile"), "{}", ran.stderr);
    }
    assert!(env.rows().is_empty());
}

#[test]
fn what_is_not_carried_out_is_refused_before_anything_is_done() {
    let env = Environment::new();
    env.write("Sandboxfile", "[sandbox.web]\nimage = \"./image\"\nports = [\"8080:80\"]\n");
    let ran = env.msb("up -d").expect(3);
    assert!(ran.stderr.contains("ports"), "{}", ran.stderr);
    assert!(ran.stderr.contains("Sandboxfile:3"), "{}", ran.stderr);
    assert!(!env.home().database().exists());
    env.msb("plan").expect(0);
}

#[test]
fn a_file_from_standard_input() {
    let env = Environment::new();
    let input = env.project().join("input");
    std::fs::write(&input, "name = \"piped\"\n[sandbox.web]\nimage = \"./image\"\n").unwrap();
    let mut command = env.command();
    command.args(["-f", "-", "config"]).stdin(std::fs::File::open(&input).unwrap());
    let ran = env.run(&mut command).expect(0);
    assert!(ran.stdout.contains("piped"), "{}", ran.stdout);
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    let env = Environment::new();
    let mut command = env.command();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = env.run_with_stdout(command.args(["completion", "bash"]), writer.into());
    assert_eq!(ran.code, 141);
    assert_eq!(ran.stderr, "");
}

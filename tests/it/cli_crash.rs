//! Whatever is killed, whenever: the next `up` makes it right, and another finds nothing to do.

use msb::supervisor;

use crate::environment::{
    Environment, PAIR, hold_lease, supervisor_process, vm_process, wait_for_end,
};

fn pair() -> Environment {
    let env = Environment::new();
    env.write("Sandboxfile", PAIR);
    env
}

/// The next `up` repairs; then there is nothing to do and nothing left over.
fn converges(env: &Environment) {
    env.msb("up -d").expect(0);
    assert_eq!(env.statuses(), ["a running", "b running"]);
    env.msb("plan --detailed-exitcode").expect(0);
    assert_eq!(env.msb("up -d").expect(0).stderr, "no changes\n");
    assert!(env.leftovers().is_empty(), "{:?}", env.leftovers());
}

#[test]
fn a_killed_supervisor_is_replaced() {
    let env = pair();
    env.msb("up -d").expect(0);
    let before = env.row("a");
    let run = before.run.unwrap();
    let process = supervisor::open_process(&run).unwrap().unwrap();
    supervisor::kill(&run).unwrap();
    wait_for_end(&process);
    assert_eq!(env.row("a").status.as_str(), "crashed");
    assert!(env.msb("ps").expect(0).stdout.contains("crashed"));
    converges(&env);
    assert_eq!(env.row("a").id, before.id);
}

#[test]
fn a_killed_vm_is_started_again() {
    let env = pair();
    env.msb("up -d").expect(0);
    let process = supervisor_process(&env, "a");
    let (pid, _) = vm_process(&env, "a");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The supervisor sees it, writes it down and ends.
    wait_for_end(&process);
    assert_eq!(env.row("a").status.as_str(), "crashed");
    converges(&env);
}

/// `up` is killed at each of its failpoints, on the way up and while replacing.
#[test]
fn up_killed_at_any_point_converges() {
    for point in ["begun", "create-before-rename", "create-before-row", "start-launched"] {
        let env = pair();
        killed(&env, point, &["up", "-d"]);
        converges(&env);
    }
    for point in ["begun", "remove-after-row", "create-before-row", "start-launched"] {
        let env = pair();
        env.msb("up -d").expect(0);
        killed(&env, point, &["up", "-d", "--replace", "-y"]);
        converges(&env);
    }
    for point in ["begun", "remove-after-row"] {
        let env = pair();
        env.msb("up -d").expect(0);
        killed(&env, point, &["down"]);
        env.msb("down").expect(0);
        assert!(env.rows().is_empty());
        assert!(env.leftovers().is_empty(), "{point}: {:?}", env.leftovers());
    }
}

/// Runs `msb` until it reaches a failpoint, where it gets SIGKILL.
fn killed(env: &Environment, point: &str, args: &[&str]) {
    let mut command = env.command();
    command.args(args).env("FAILPOINTS", format!("{point}=return"));
    assert_eq!(env.run(&mut command).code, -1, "{point} was not reached");
}

#[test]
fn a_held_lease_is_6_and_a_dead_holder_is_none() {
    let env = pair();
    env.msb("up -d").expect(0);
    let lease = hold_lease(&env, "pair");
    let ran = env.msb("stop --lock-timeout 50ms").expect(6);
    assert!(ran.stderr.contains("a test"), "{}", ran.stderr);
    // Looking is free.
    env.msb("plan").expect(0);
    env.msb("ps").expect(0);
    drop(lease);
    env.msb("stop").expect(0);
}

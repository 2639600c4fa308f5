//! Values for tests of the planner.

use crate::spec::{Image, ImageSource, Name, SandboxSpec};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn service() -> SandboxSpec {
    let source = ImageSource::Oci("demo:1".to_owned());
    SandboxSpec::new(Image { source, platform: None })
}

/// A spec in whose canonical form every field appears.
pub(crate) fn full_spec() -> SandboxSpec {
    let mut value = serde_json::to_value(service()).unwrap();
    let rest = serde_json::json!({
        "env": {"A": "1"}, "entrypoint": ["e"], "cmd": ["c"], "workdir": "/w", "user": "u",
        "shell": "/bin/sh", "hostname": "h", "labels": {"a": "b"}, "scripts": {"s": "x"},
        "volumes": {"/v": {"tmpfs": {"size": null, "mode": null}, "readonly": false}},
        "patches": [{"kind": "remove", "path": "/etc/issue"}],
        "healthcheck": {"exec": ["true"], "interval": "1s", "timeout": "1s", "retries": 1, "start_period": "0s"},
        "stop_signal": "SIGINT", "max_duration": "1h", "idle_timeout": "1m",
        "depends_on": {"db": {"condition": "started", "required": true, "restart": false}},
        "ports": [{"host": 80, "guest": 80, "bind": "127.0.0.1"}], "secrets": ["s"],
        "profiles": ["p"], "hooks": {"post_start": [["true"]]},
        "lifecycle": {"replace": "start-first", "ignore": ["labels"], "protect": true},
        "watch": [{"path": "/x", "target": null, "action": "restart"}],
        "network": {"policy": "none"}
    });
    for (key, field) in rest.as_object().unwrap() {
        value[key] = field.clone();
    }
    serde_json::from_value(value).unwrap()
}

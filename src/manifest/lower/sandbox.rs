//! One sandbox, after its template and the defaults have been merged under it.

use std::collections::BTreeMap;

use crate::manifest::image::{self, Written};
use crate::manifest::keys::{HEALTHCHECK, IMAGE};
use crate::manifest::path;
use crate::manifest::report::{Problem, Span};
use crate::manifest::tree::{Entry, Node, Table, Value};
use crate::spec::{
    Condition, Dependency, HealthCheck, Hooks, Image, ImageSource, InvalidScript, Lifecycle, Name,
    Probe, ReplaceOrder, RestartPolicy, SandboxSpec, User, WatchAction, WatchRule,
    check_script_name, check_scripts,
};

use super::{Edge, Kind, Lower, parsed, string_map, strings, word};

/// A restart policy.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, String> {
    /// More restarts in a row than anybody waits for.
    const MOST: u32 = 999_999_999;
    Ok(match text {
        "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "on-failure" => RestartPolicy::OnFailure { max: None },
        "unless-stopped" => RestartPolicy::UnlessStopped,
        text => match text.strip_prefix("on-failure:") {
            Some(count) if count.bytes().all(|b| b.is_ascii_digit()) && !count.starts_with('0') => {
                match count.parse() {
                    Ok(max) if max <= MOST => RestartPolicy::OnFailure { max: Some(max) },
                    _ => return Err("the count is too large".to_owned()),
                }
            }
            _ => return Err("there is no such policy".to_owned()),
        },
    })
}

impl Lower<'_> {
    /// Lowers the merged `table` of the sandbox `name`, declared at `span`.
    pub(crate) fn sandbox(
        &mut self,
        name: &Name,
        table: &Table,
        span: Span,
    ) -> Option<SandboxSpec> {
        let Some(image) = table.get("image") else {
            let problem = Problem::new(span, format!("the sandbox `{name}` has no image"))
                .label("needs `image`")
                .help("write `image = \"…\"` here, in its template or in `[defaults]`");
            self.sink.add_missing(self.files, problem);
            self.sandbox_rest(name, table, &mut SandboxSpec::new(placeholder_image()));
            return None;
        };
        let lowered = self.image(&image.node);
        let complete = lowered.is_some();
        let mut spec = SandboxSpec::new(lowered.unwrap_or_else(placeholder_image));
        self.sandbox_rest(name, table, &mut spec);
        complete.then_some(spec)
    }

    fn sandbox_rest(&mut self, name: &Name, table: &Table, spec: &mut SandboxSpec) {
        if let Some(entry) = table.get("env_file") {
            spec.env = self.env_file_variables(name, &entry.node);
        }
        for entry in &table.entries {
            self.workload_key(entry, spec);
            self.machine_key(entry, spec);
            self.relation_key(name, entry, spec);
        }
        if spec.replicas > 1 {
            self.check_replicas(table, spec);
        }
        self.check_scripts(table, spec);
    }

    /// Keys about the process that runs.
    fn workload_key(&mut self, entry: &Entry, spec: &mut SandboxSpec) {
        let node = &entry.node;
        match entry.key.as_str() {
            "env" => spec.env.extend(string_map(node)),
            "entrypoint" => spec.entrypoint = strings(node),
            "cmd" => spec.cmd = strings(node),
            "workdir" => spec.workdir = parsed(node),
            "user" => spec.user = node.as_str().map(|text| User(text.to_owned())),
            "shell" => spec.shell = parsed(node),
            "scripts" => spec.scripts = string_map(node),
            "healthcheck" => spec.healthcheck = self.healthcheck(node),
            "restart" => {
                spec.restart =
                    node.as_str().and_then(|text| restart(text).ok()).unwrap_or_default();
            }
            "stop_signal" => spec.stop_signal = parsed(node),
            "stop_grace_period" => {
                spec.stop_grace_period = parsed(node).unwrap_or(spec.stop_grace_period);
            }
            "max_duration" => {
                spec.max_duration = parsed(node);
                if spec.max_duration.is_some_and(|duration| duration.ms() == 0) {
                    self.report(Problem::new(node.span, "a run cannot take at most 0s"));
                }
            }
            "idle_timeout" => {
                spec.idle_timeout = parsed(node);
                if spec.idle_timeout.is_some_and(|duration| duration.ms() == 0) {
                    self.report(Problem::new(node.span, "a run is always idle for 0s"));
                }
            }
            "hooks" => spec.hooks = hooks(node),
            _ => {}
        }
    }

    /// Keys about the machine that it runs in.
    fn machine_key(&mut self, entry: &Entry, spec: &mut SandboxSpec) {
        let node = &entry.node;
        match entry.key.as_str() {
            "kind" => spec.kind = word(node).unwrap_or_default(),
            "pull_policy" => spec.pull_policy = word(node).unwrap_or_default(),
            "log_level" => spec.log_level = word(node).unwrap_or_default(),
            "memory" => {
                spec.memory = self.size(node, "memory", SandboxSpec::MIN_MEMORY, spec.memory);
            }
            "disk" => spec.disk = self.size(node, "disk", SandboxSpec::MIN_DISK, spec.disk),
            "cpus" => spec.cpus = count(node).unwrap_or(1),
            "replicas" => spec.replicas = count(node).unwrap_or(1),
            "hostname" => spec.hostname = node.as_str().map(str::to_owned),
            "labels" => spec.labels = string_map(node),
            "patches" => {
                let items = node.as_list().unwrap_or_default();
                spec.patches = items.iter().filter_map(|item| self.patch(item)).collect();
                let writes = matches!(spec.image.source, ImageSource::Disk { writable: true, .. });
                if writes && !spec.patches.is_empty() {
                    let problem = "a disk image that the guest writes to cannot be patched";
                    let problem = Problem::new(node.span, problem);
                    self.report(problem.help("without `writable`, the image stays as it is"));
                }
            }
            "lifecycle" => spec.lifecycle = lifecycle(node),
            "watch" => {
                let items = node.as_list().unwrap_or_default();
                spec.watch = items.iter().filter_map(|item| self.watch(item)).collect();
            }
            _ => {}
        }
    }

    /// Keys that name something else.
    fn relation_key(&mut self, name: &Name, entry: &Entry, spec: &mut SandboxSpec) {
        let node = &entry.node;
        match entry.key.as_str() {
            "depends_on" => spec.depends_on = self.dependencies(name, node),
            "ports" => spec.ports = self.ports(node, name),
            "volumes" => spec.volumes = self.mounts(node, name),
            "secrets" => {
                let items = node.as_list().unwrap_or_default();
                for item in items {
                    let Some(secret) = self.reference(item, Kind::Secret) else { continue };
                    if !spec.secrets.contains(&secret) {
                        spec.secrets.push(secret);
                    }
                }
            }
            "profiles" => {
                let items = node.as_list().unwrap_or_default();
                spec.profiles = items.iter().filter_map(parsed).collect();
            }
            "network" => spec.network = self.network(node).unwrap_or_default(),
            _ => {}
        }
    }

    fn size(
        &mut self,
        node: &Node,
        key: &str,
        least: crate::spec::ByteSize,
        default: crate::spec::ByteSize,
    ) -> crate::spec::ByteSize {
        let Some(size) = parsed::<crate::spec::ByteSize>(node) else { return default };
        if size < least {
            let problem = Problem::new(node.span, format!("`{key}` is too small"))
                .help(format!("write at least `\"{least}\"`"));
            self.report(problem);
        }
        size
    }

    fn image(&mut self, node: &Node) -> Option<Image> {
        if let Value::String(text, _) = &node.value {
            image::check(text).ok()?;
            let dir = &self.files.of(node.span).dir;
            let source = match image::written(text) {
                Written::Reference => ImageSource::Oci(text.clone()),
                Written::Dir => ImageSource::Dir(path::absolute(dir, text)),
                Written::Archive => ImageSource::Archive(path::absolute(dir, text)),
                Written::Disk => disk(path::absolute(dir, text)),
            };
            return Some(Image { source, platform: None });
        }
        let table = self.open(node, &IMAGE)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let text = |key: &str| value(key).and_then(Node::as_str).map(str::to_owned);
        let path = |key: &str| value(key).and_then(|node| self.host_path(node));
        let source = if let Some(oci) = text("oci") {
            image::reference(&oci).ok()?;
            ImageSource::Oci(oci)
        } else if let Some(dir) = path("dir") {
            ImageSource::Dir(dir)
        } else if let Some(archive) = path("archive") {
            ImageSource::Archive(archive)
        } else {
            let writable = value("writable").and_then(Node::as_bool).unwrap_or(false);
            let partition = value("partition").and_then(Node::as_int);
            let partition = partition.and_then(|number| u32::try_from(number).ok());
            ImageSource::Disk { path: path("disk")?, fstype: text("fstype"), partition, writable }
        };
        Some(Image { source, platform: text("platform") })
    }

    /// Variables of env files, the later ones winning.
    fn env_file_variables(&mut self, sandbox: &Name, node: &Node) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (path, _, _) in env_file_entries(node) {
            let Some(path) = self.host_path(path) else { continue };
            let Some(file) = self.env_files.get(&path) else { continue };
            for variable in &file.1 {
                let at = u32::try_from(variable.at).unwrap_or(u32::MAX);
                env.insert(variable.name.clone(), variable.value.clone());
                places.insert(variable.name.clone(), (file.0, at));
            }
        }
        self.env_places.insert(sandbox.clone(), places);
        env
    }

    fn healthcheck(&mut self, node: &Node) -> Option<HealthCheck> {
        let table = self.open(node, &HEALTHCHECK)?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let text = |key: &str| value(key).and_then(Node::as_str).map(str::to_owned);
        let duration = |key: &str, default| value(key).and_then(parsed).unwrap_or(default);
        for key in ["interval", "timeout"] {
            let Some(node) = value(key) else { continue };
            if parsed::<crate::spec::Millis>(node).is_some_and(|time| time.ms() == 0) {
                self.report(Problem::new(node.span, format!("`{key}` must be more than 0s")));
            }
        }
        let probe = if let Some(command) = value("exec").and_then(strings) {
            Probe::Exec(command)
        } else if let Some(script) = text("shell") {
            Probe::Shell(script)
        } else if let Some(url) = text("http") {
            Probe::Http(url)
        } else {
            Probe::Tcp(text("tcp")?)
        };
        Some(HealthCheck {
            probe,
            interval: duration("interval", HealthCheck::DEFAULT_INTERVAL),
            timeout: duration("timeout", HealthCheck::DEFAULT_TIMEOUT),
            retries: value("retries").and_then(count).unwrap_or(HealthCheck::DEFAULT_RETRIES),
            start_period: duration("start_period", crate::spec::Millis::from_ms(0)),
        })
    }

    fn dependencies(&mut self, from: &Name, node: &Node) -> BTreeMap<Name, Dependency> {
        let mut all = BTreeMap::new();
        let mut add = |lower: &mut Self, to: Option<Name>, span, dependency| {
            let Some(to) = to else { return };
            lower.edges.push(Edge { from: from.clone(), to: to.clone(), span });
            all.insert(to, dependency);
        };
        let plain = Dependency { condition: Condition::Started, required: true, restart: false };
        for item in node.as_list().unwrap_or_default() {
            let to = self.reference(item, Kind::Sandbox);
            add(self, to, item.span, plain.clone());
        }
        for entry in node.as_table().into_iter().flat_map(|table| &table.entries) {
            let shown = entry.key.escape_debug().to_string();
            let to = self.resolve(&entry.key, &shown, entry.key_span, Kind::Sandbox);
            let mut dependency = plain.clone();
            if let Some(table) = entry.node.as_table() {
                let value = |key: &str| table.get(key).map(|entry| &entry.node);
                let flag = |key: &str| value(key).and_then(Node::as_bool);
                dependency.condition = value("condition").and_then(word).unwrap_or_default();
                dependency.required = flag("required").unwrap_or(true);
                dependency.restart = flag("restart").unwrap_or(false);
            } else {
                dependency.condition = word(&entry.node).unwrap_or_default();
            }
            add(self, to, entry.key_span, dependency);
        }
        all
    }

    fn watch(&mut self, node: &Node) -> Option<WatchRule> {
        let table = node.as_table()?;
        let value = |key: &str| table.get(key).map(|entry| &entry.node);
        let action = word(value("action")?)?;
        let target = value("target").and_then(parsed);
        let copies = matches!(action, WatchAction::Sync | WatchAction::SyncRestart);
        if copies && value("target").is_none() {
            self.report(
                Problem::new(node.span, "a watch rule that copies needs `target`")
                    .help("say where changed files go in the guest"),
            );
        }
        Some(WatchRule {
            path: self.host_path(value("path")?)?,
            target,
            action,
            ignore: value("ignore").and_then(strings).unwrap_or_default(),
        })
    }

    /// Names have been checked one by one, before.
    fn check_scripts(&mut self, table: &Table, spec: &SandboxSpec) {
        let Err(InvalidScript { name, why }) = check_scripts(&spec.scripts, &spec.shell_path())
        else {
            return;
        };
        let scripts = table.get("scripts").and_then(|entry| entry.node.as_table());
        let entry = scripts.and_then(|scripts| scripts.get(&name));
        if let Some(entry) = entry.filter(|_| check_script_name(&name).is_ok()) {
            let problem = Problem::new(entry.key_span, why).label("too much with this one");
            let help = "put what is large into the image, or copy it in with `patches`";
            self.report(problem.help(help));
        }
    }

    fn check_replicas(&mut self, table: &Table, spec: &SandboxSpec) {
        let fixed = |port: &crate::spec::PortMapping| port.host != crate::spec::HostPort::Auto;
        if let (true, Some(entry)) = (spec.ports.iter().any(fixed), table.get("replicas")) {
            self.report(
                Problem::new(entry.node.span, "replicas cannot share a host port")
                    .label("more than one replica")
                    .help("publish `\"auto:GUEST\"`, or run one replica"),
            );
        }
    }
}

/// The env files that `node` names: the path, whether it is required, and the whole item.
pub(crate) fn env_file_entries(node: &Node) -> impl Iterator<Item = (&Node, bool, &Node)> {
    let items = match &node.value {
        Value::List(items) => items.as_slice(),
        Value::String(..) => std::slice::from_ref(node),
        _ => &[],
    };
    items.iter().filter_map(|item| match &item.value {
        Value::String(..) => Some((item, true, item)),
        Value::Table(table) => {
            let required = table.get("required").and_then(|entry| entry.node.as_bool());
            Some((&table.get("path")?.node, required.unwrap_or(true), item))
        }
        _ => None,
    })
}

/// Stands in for an image that has been reported, so that the rest is still looked at.
fn placeholder_image() -> Image {
    Image { source: ImageSource::Oci(String::new()), platform: None }
}

fn disk(path: String) -> ImageSource {
    ImageSource::Disk { path, fstype: None, partition: None, writable: false }
}

fn count(node: &Node) -> Option<u32> {
    node.as_int().and_then(|value| u32::try_from(value).ok())
}

fn hooks(node: &Node) -> Hooks {
    let commands = |key: &str| {
        let list = node.as_table().and_then(|table| table.get(key)?.node.as_list());
        list.unwrap_or_default().iter().filter_map(strings).collect()
    };
    Hooks { post_start: commands("post_start"), pre_stop: commands("pre_stop") }
}

fn lifecycle(node: &Node) -> Lifecycle {
    let value = |key: &str| node.as_table().and_then(|table| Some(&table.get(key)?.node));
    Lifecycle {
        replace: value("replace").and_then(word::<ReplaceOrder>).unwrap_or_default(),
        ignore: value("ignore").and_then(strings).unwrap_or_default(),
        protect: value("protect").and_then(Node::as_bool).unwrap_or(false),
    }
}

//! Keys of everything but sandboxes.

use super::Merge::{Append, Union};
use super::Rule::{AnyOf, AtMostOne, ExactlyOne, Required, Together};
use super::sandbox::{DEFAULTS, SANDBOX};
use super::{TableDef, Ty, key, kinds};

const NAME: Ty = Ty::Text(&kinds::NAME);
const HOST_PATH: Ty = Ty::Text(&kinds::HOST_PATH);
const ACTION: Ty = Ty::Word(&["allow", "deny"]);

/// A list of env files.
pub(crate) const ENV_FILES: Ty = Ty::Any(&[
    Ty::Text(&kinds::HOST_PATH),
    Ty::List(&Ty::Any(&[Ty::Text(&kinds::HOST_PATH), Ty::Table(&ENV_FILE)]), 0),
]);

/// The file.
pub(crate) static ROOT: TableDef = TableDef {
    name: "a Sandboxfile",
    path: "",
    doc: "Keys at the top of the file, and its tables.",
    keys: &[
        key("requires", Ty::Text(&kinds::VERSION), "", "Versions of msb that may read the file."),
        key("name", NAME, "the directory's name and a short hash of its path", "Name of the project. In an included file it has no effect."),
        key("env_file", ENV_FILES, "", "Env files whose variables the file may use; the process environment wins over them, a later file over an earlier one.").merge(Append),
        key("defaults", Ty::Table(&DEFAULTS), "", "Merged under every sandbox of this file."),
        key("templates", Ty::Map(&kinds::NAME, &Ty::Table(&SANDBOX)), "", "Templates by name, used through `extends`."),
        key("sandbox", Ty::Map(&kinds::NAME, &Ty::Table(&SANDBOX)), "", "Sandboxes by name."),
        key("volume", Ty::Map(&kinds::NAME, &Ty::Table(&VOLUME)), "", "Volumes by name."),
        key("secret", Ty::Map(&kinds::NAME, &Ty::Table(&SECRET)), "", "Secrets by name.").later(),
        key("registry", Ty::Map(&kinds::REGISTRY_HOST, &Ty::Table(&REGISTRY)), "", "Credentials by registry host."),
        key("network", Ty::Map(&kinds::NAME, &Ty::Table(&NETWORK)), "", "Shared network policies by name."),
        key("include", Ty::List(&Ty::Table(&INCLUDE), 0), "", "Further Sandboxfiles.").merge(Append),
    ],
    rules: &[],
    whole: false,
};

pub(crate) static ENV_FILE: TableDef = TableDef {
    name: "an env file",
    path: "env_file[]",
    doc: "The long form of an env file, at the top of the file and in a sandbox.",
    keys: &[
        key("path", HOST_PATH, "", "The file."),
        key("required", Ty::Bool, "true", "Whether it is an error when the file is missing."),
    ],
    rules: &[Required("path")],
    whole: true,
};

pub(crate) static INCLUDE: TableDef = TableDef {
    name: "an include",
    path: "include[]",
    doc: "A further Sandboxfile. Its paths are relative to itself; its defaults and templates are its own.",
    keys: &[
        key("path", HOST_PATH, "", "The file."),
        key(
            "as",
            NAME,
            "",
            "A name that is put before all names of the file: its `db` becomes `infra/db`.",
        ),
    ],
    rules: &[Required("path")],
    whole: true,
};

pub(crate) static VOLUME: TableDef = TableDef {
    name: "a volume",
    path: "volume.*",
    doc: "A volume, kept until it is removed on request.",
    keys: &[
        key(
            "kind",
            Ty::Word(&["disk", "dir"]),
            "`\"disk\"`",
            "`\"disk\"` is an ext4 image of its own with one writer at a time; `\"dir\"` a host directory that can be shared.",
        ),
        key(
            "quota",
            Ty::Text(&kinds::SIZE),
            "`\"10GiB\"` for a disk",
            "The size of a disk: a hard limit. It takes room as it fills, grows when this grows, and never shrinks.",
        ),
        key(
            "labels",
            Ty::Map(&kinds::NOT_EMPTY, &Ty::Text(&kinds::ANY)),
            "",
            "Labels, for filters.",
        ),
        key("protect", Ty::Bool, "false", "`msb down -v` refuses to remove it."),
        key(
            "external",
            Ty::Bool,
            "false",
            "It is one that `msb volume create` made, and is never made, changed or removed here.",
        ),
    ],
    rules: &[],
    whole: false,
};

pub(crate) static SECRET: TableDef = TableDef {
    name: "a secret",
    path: "secret.*",
    doc: "A secret: the guest sees a placeholder, allowed hosts get the value.",
    keys: &[
        key(
            "env",
            Ty::Text(&kinds::ENV_NAME),
            "",
            "The variable in the guest that holds the placeholder.",
        )
        .later(),
        key(
            "from",
            Ty::Table(&SOURCE),
            "",
            "Where the value comes from; read when a sandbox starts, never stored.",
        )
        .later(),
        key(
            "allow_hosts",
            Ty::List(&Ty::Text(&kinds::DOMAIN), 0),
            "",
            "Hosts to which the value may go.",
        )
        .merge(Union)
        .later(),
        key(
            "allow_host_patterns",
            Ty::List(&Ty::Text(&kinds::HOST_PATTERN), 0),
            "",
            "Patterns of such hosts.",
        )
        .merge(Union)
        .later(),
        key(
            "placeholder",
            Ty::Text(&kinds::NOT_EMPTY),
            "`'$MSB_…'` with the name of the variable",
            "What the guest sees.",
        )
        .later(),
        key("require_tls", Ty::Bool, "true", "Only over verified TLS.").later(),
        key(
            "on_violation",
            Ty::Word(&["block", "block-and-log", "block-and-terminate"]),
            "`\"block-and-log\"`",
            "What happens when the placeholder goes to another host.",
        )
        .later(),
    ],
    rules: &[Required("env"), Required("from"), AnyOf(&["allow_hosts", "allow_host_patterns"])],
    whole: false,
};

pub(crate) static SOURCE: TableDef = TableDef {
    name: "a source of a value",
    path: "secret.*.from",
    doc: "Where a secret's value or a registry's password comes from: exactly one of these.",
    keys: &[
        key("env", Ty::Text(&kinds::ENV_NAME), "", "A variable of the environment of msb."),
        key("file", HOST_PATH, "", "A host file, without its trailing newline."),
        key(
            "command",
            Ty::List(&Ty::Text(&kinds::ANY), 1),
            "",
            "The output of a command, without its trailing newline.",
        ),
    ],
    rules: &[ExactlyOne(&["env", "file", "command"])],
    whole: false,
};

pub(crate) static REGISTRY: TableDef = TableDef {
    name: "a registry",
    path: "registry.*",
    doc: "Credentials and transport of one registry.",
    keys: &[
        key("username", Ty::Text(&kinds::NOT_EMPTY), "", "User name."),
        key("password", Ty::Table(&SOURCE), "", "Where the password comes from."),
        key("insecure", Ty::Bool, "false", "Plain HTTP; for registries on loopback only."),
    ],
    rules: &[Together("username", "password")],
    whole: false,
};

pub(crate) static NETWORK: TableDef = TableDef {
    name: "a network",
    path: "network.*",
    doc: "A network policy: in a sandbox, or shared by name.",
    keys: &[
        key(
            "policy",
            Ty::Word(&["none", "public-only", "allow-all"]),
            "`\"public-only\"`",
            "A preset. Only `\"none\"` is carried out by this version.",
        ),
        key(
            "rules",
            Ty::List(&Ty::Table(&RULE), 0),
            "",
            "Rules in order; the first match decides.",
        )
        .merge(Append)
        .later(),
        key("default_action", ACTION, "`\"deny\"`", "What happens when no rule matches.").later(),
        key(
            "connect",
            Ty::List(&NAME, 0),
            "",
            "Sandboxes that it may connect to, beside those of `depends_on`.",
        )
        .merge(Union)
        .later(),
        key(
            "block_domains",
            Ty::List(&Ty::Text(&kinds::DOMAIN), 0),
            "",
            "Names that do not resolve.",
        )
        .merge(Union)
        .later(),
        key(
            "block_domain_suffixes",
            Ty::List(&Ty::Text(&kinds::SUFFIX), 0),
            "",
            "Suffixes (`\".ads.example\"`) that do not resolve, the apex included.",
        )
        .merge(Union)
        .later(),
        key(
            "dns_rebind_protection",
            Ty::Bool,
            "true",
            "Drop private addresses from answers for public names.",
        )
        .later(),
        key("max_connections", Ty::Int(1, 65535), "256", "The most connections at a time.").later(),
        key("tls", Ty::Table(&TLS), "", "TLS interception; on when present.").later(),
    ],
    rules: &[AtMostOne(&["policy", "rules"]), AtMostOne(&["policy", "default_action"])],
    whole: false,
};

pub(crate) static RULE: TableDef = TableDef {
    name: "a rule",
    path: "network.*.rules[]",
    doc: "A rule of a network policy.",
    keys: &[
        key("action", ACTION, "", "What a match does.").later(),
        key("destination", Ty::Text(&kinds::DESTINATION), "", "`*`, an address or CIDR, a domain, `.suffix`, a group (`loopback`, `private`, `link-local`, `metadata`, `multicast`), `host` or `sandbox:NAME`.").later(),
        key("protocol", Ty::Word(&["tcp", "udp", "icmpv4", "icmpv6"]), "any", "Only this transport.").later(),
        key("port", Ty::Any(&[Ty::Int(1, 65535), Ty::Text(&kinds::PORT_RANGE)]), "any", "Only this port, or range of ports.").later(),
        key("direction", Ty::Word(&["outbound", "inbound"]), "`\"outbound\"`", "From the guest, or to it.").later(),
    ],
    rules: &[Required("action"), Required("destination")],
    whole: true,
};

pub(crate) static TLS: TableDef = TableDef {
    name: "TLS interception",
    path: "network.*.tls",
    doc: "TLS interception.",
    keys: &[
        key(
            "bypass",
            Ty::List(&Ty::Text(&kinds::BYPASS), 0),
            "",
            "Domains (or `*.suffix`) that are passed through.",
        )
        .merge(Union)
        .later(),
        key("verify_upstream", Ty::Bool, "true", "Whether upstream certificates are verified.")
            .later(),
        key(
            "intercepted_ports",
            Ty::List(&Ty::Int(1, 65535), 1),
            "`[443]`",
            "TCP ports that are intercepted.",
        )
        .later(),
        key("block_quic", Ty::Bool, "true", "Whether UDP on the intercepted ports is denied.")
            .later(),
        key(
            "ca_cert",
            HOST_PATH,
            "",
            "A CA certificate of your own (PEM), together with `ca_key`.",
        )
        .later(),
        key("ca_key", HOST_PATH, "", "Its key (PEM).").later(),
    ],
    rules: &[Together("ca_cert", "ca_key")],
    whole: false,
};

//! Sandboxfiles in, projects or reports out, each held against a file beside it
//! (`UPDATE_EXPECT=1` writes them), and the schema held against the same files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use miette::{GraphicalReportHandler, GraphicalTheme};
use msb::manifest::{self, Inputs, Loader, Parsed, Source};

/// Where the fixtures pretend to be.
const DIR: &str = "/project";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Finds what fixtures include below `tests/manifests/files`.
struct Files;

impl Loader for Files {
    fn load(&self, path: &str) -> io::Result<Option<String>> {
        let Some(path) = path.strip_prefix(DIR) else { return Ok(None) };
        match fs::read_to_string(repository("tests/manifests/files").join(&path[1..])) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn load(text: &str) -> Parsed {
    let env = |name: &str| (name == "TOKEN").then(|| "t0ken-of-the-process".to_owned());
    let source = Source { path: "Sandboxfile".to_owned(), dir: DIR.to_owned(), text: text.into() };
    manifest::load(Inputs {
        files: &[source],
        loader: &Files,
        env: &env,
        project_name: None,
        env_files: &[],
    })
}

fn render(parsed: &Parsed) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .with_links(false);
    let mut out = String::new();
    for diagnostic in &parsed.diagnostics {
        handler.render_report(&mut out, diagnostic).unwrap();
        out.push('\n');
    }
    out
}

/// The Sandboxfiles in a folder of `tests/manifests`, by name.
fn fixtures(folder: &str) -> BTreeMap<PathBuf, String> {
    let entries = fs::read_dir(repository("tests/manifests").join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let found: BTreeMap<_, _> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "toml"))
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(!found.is_empty(), "no fixtures in {folder}");
    found
}

/// Every recorded place, with the text that stands there.
fn places(parsed: &Parsed) -> String {
    let place = |(path, origin): (String, msb::spec::Origin)| format!("{path} {origin}\n");
    parsed.origins.iter().map(place).collect()
}

#[test]
fn valid_files_are_lowered() {
    for (path, text) in fixtures("valid") {
        let parsed = load(&text);
        assert!(parsed.diagnostics.is_empty(), "{}:\n{}", path.display(), render(&parsed));
        let project = serde_json::to_string_pretty(parsed.project.as_ref().unwrap()).unwrap();
        expect_file![path.with_extension("json")].assert_eq(&(project + "\n"));
        expect_file![path.with_extension("origins")].assert_eq(&places(&parsed));
    }
}

#[test]
fn the_canonical_form_declares_the_same_project() {
    let example = fs::read_to_string(repository("Sandboxfile.example")).unwrap();
    let valid = fixtures("valid").into_values();
    for text in valid.chain([example]) {
        let project = load(&text).project.unwrap();
        let canonical = manifest::canonical_toml(&project);
        let again = load(&canonical);
        assert!(again.project.is_some(), "{canonical}\n{}", render(&again));
        assert_eq!(again.project.unwrap(), project, "{canonical}");
    }
}

#[test]
fn invalid_files_are_reported() {
    let mut count = 0;
    for folder in ["invalid", "invalid/semantic", "invalid/syntax"] {
        for (path, text) in fixtures(folder) {
            let parsed = load(&text);
            assert!(parsed.project.is_none(), "{} is accepted", path.display());
            let report = render(&parsed);
            assert!(!report.contains("t0ken"), "{report}");
            expect_file![path.with_extension("txt")].assert_eq(&report);
            count += 1;
        }
    }
    assert!(count >= 60, "{count}");
}

#[test]
fn every_error_has_a_place() {
    for folder in ["invalid", "invalid/semantic", "invalid/syntax"] {
        for (path, text) in fixtures(folder) {
            for diagnostic in load(&text).diagnostics {
                assert!(diagnostic.origin().is_some(), "{}: {diagnostic}", path.display());
            }
        }
    }
}

#[test]
fn the_schema_is_the_one_of_the_key_table() {
    expect_file![repository("schema/sandboxfile.schema.json")].assert_eq(&manifest::json_schema());
}

/// TOML as the JSON that a schema sees.
fn json(text: &str) -> serde_json::Value {
    let table: toml::Table = text.parse().unwrap();
    serde_json::to_value(table).unwrap()
}

#[test]
fn the_schema_agrees_with_the_decoder() {
    let schema: serde_json::Value = manifest::json_schema().parse().unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let example = (repository("Sandboxfile.example"), String::new());
    let example = (example.0.clone(), fs::read_to_string(example.0).unwrap());
    // What only the decoder can find is in a folder of its own, so that this list stays honest.
    for (path, text) in
        fixtures("valid").into_iter().chain(fixtures("invalid/semantic")).chain([example])
    {
        let errors: Vec<_> =
            schema.iter_errors(&json(&text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
    for (path, text) in fixtures("invalid") {
        assert!(!schema.is_valid(&json(&text)), "{}", path.display());
    }
}

/// All keys of the table of keys, as paths with `*`.
fn documented() -> Vec<String> {
    let mut prefix = String::new();
    let mut keys = Vec::new();
    for line in manifest::markdown().lines() {
        if let Some(title) = line.strip_prefix("### ") {
            prefix = match title {
                "Top of the file" => String::new(),
                title => format!("{}.", title.trim_matches('`')),
            };
        } else if let Some(key) = line.strip_prefix("| `") {
            keys.push(format!("{prefix}{}", key.split('`').next().unwrap()));
        }
    }
    keys
}

#[test]
fn the_example_uses_every_key() {
    let text = fs::read_to_string(repository("Sandboxfile.example")).unwrap();
    let parsed = load(&text);
    assert!(parsed.diagnostics.is_empty(), "{}", render(&parsed));
    for path in documented() {
        let key = path.rsplit('.').next().unwrap();
        let used = text.lines().any(|line| {
            let line = line.split_once('#').map_or(line, |(before, _)| before);
            let mut words = line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            words.any(|word| word == key)
        });
        assert!(used, "`{path}` is not in Sandboxfile.example");
    }
}

#[test]
fn every_documented_key_is_explained() {
    let documented = documented();
    assert!(documented.len() > 100, "{}", documented.len());
    for path in documented {
        assert!(manifest::explain(&path).is_some(), "{path}");
    }
}

#[test]
fn the_reference_is_the_one_of_the_key_table() {
    const START: &str =
        "<!-- The rest is written by `UPDATE_EXPECT=1 cargo nextest run manifest`. -->\n";
    let path = repository("docs/sandboxfile.md");
    let text = fs::read_to_string(&path).unwrap();
    let (prose, _) = text.split_once(START).expect("the mark of the generated part");
    expect_file![path].assert_eq(&format!("{prose}{START}{}", manifest::markdown()));
}

#[test]
fn unsupported_keys_are_named_with_their_lines() {
    let text = fs::read_to_string(repository("Sandboxfile.example")).unwrap();
    let parsed = load(&text);
    let project = parsed.project.as_ref().unwrap();
    let names = project.sandboxes.keys();
    let found = manifest::unsupported(project, names, &parsed.origins);
    let lines: String = found
        .iter()
        .map(|diagnostic| format!("{} {diagnostic}\n", diagnostic.origin().unwrap()))
        .collect();
    expect_file![repository("tests/manifests/unsupported.txt")].assert_eq(&lines);
}

//! `docs/cli.md` says what the program's own help says.

#[test]
fn reference_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
        std::fs::write(path, msb::cli::reference()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == msb::cli::reference(),
        "docs/cli.md is out of date: run `UPDATE_EXPECT=1 cargo test --features test-support cli_docs`"
    );
}

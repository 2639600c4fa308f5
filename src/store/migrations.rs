//! The schema's history. A migration that has been released is never edited.

use rusqlite::{Connection, TransactionBehavior};

/// One SQL script a version, in order.
const MIGRATIONS: [&str; 3] =
    [include_str!("sql/0001.sql"), include_str!("sql/0002.sql"), include_str!("sql/0003.sql")];

/// The schema version of this build: the number of migrations.
pub const SCHEMA_VERSION: u32 = 3;

const _: () = assert!(MIGRATIONS.len() == SCHEMA_VERSION as usize);

/// The number of migrations that `conn` has.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<u32> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Applies what is missing, in one transaction that excludes other writers. A database that became
/// newer meanwhile is left as it is; the caller reads the version again.
pub(super) fn apply(conn: &mut Connection) -> rusqlite::Result<()> {
    apply_from(conn, &MIGRATIONS)
}

fn apply_from(conn: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let have = usize::try_from(version(&tx)?).unwrap_or(usize::MAX);
    for migration in migrations.iter().skip(have) {
        tx.execute_batch(migration)?;
    }
    if have < migrations.len() {
        tx.pragma_update(None, "user_version", migrations.len())?;
        tx.pragma_update(None, "application_id", super::open::APPLICATION_ID)?;
    }
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;

    fn schema(conn: &Connection) -> String {
        let mut statement = conn
            .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY name")
            .unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(|row| row.unwrap() + ";\n").collect()
    }

    #[test]
    fn all_migrations_give_the_current_schema() {
        let mut conn = Connection::open_in_memory().unwrap();
        apply(&mut conn).unwrap();
        expect_file!["../../schema/store.sql"].assert_eq(&schema(&conn));
        assert_eq!(version(&conn).unwrap(), SCHEMA_VERSION);
    }

    #[test]
    fn applying_twice_changes_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        apply(&mut conn).unwrap();
        let once = schema(&conn);
        apply(&mut conn).unwrap();
        assert_eq!(schema(&conn), once);
    }

    #[test]
    fn a_failing_migration_leaves_nothing() {
        let mut conn = Connection::open_in_memory().unwrap();
        assert!(
            apply_from(&mut conn, &[MIGRATIONS[0], "CREATE TABLE t (x); SELECT nonsense;"])
                .is_err()
        );
        assert_eq!(version(&conn).unwrap(), 0);
        assert_eq!(schema(&conn), "");
    }
}

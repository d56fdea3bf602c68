//! Queries of the kind that servers send: joins, groups and comparisons over several tables.

use crate::support::{engine, query, rows};

#[test]
fn a_join_hands_its_values_to_tables_that_need_them() {
    let engine = engine();
    let own = std::process::id();
    let found = rows(
        &engine,
        &format!(
            "SELECT p.pid, h.sha256, f.inode FROM processes p JOIN hash h USING (path) JOIN file f USING (path) \
             WHERE p.pid = {own}"
        ),
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["sha256"].len(), 64);
    let output = query(
        &engine,
        "SELECT u.username, k.key FROM users u CROSS JOIN authorized_keys k USING (uid) WHERE u.uid = 0",
    );
    assert_eq!(output.columns, ["username", "key"]);
}

#[test]
fn a_constraint_on_an_index_reads_only_what_it_names() {
    let engine = engine();
    let own = std::process::id();
    for sql in [
        format!("SELECT pid FROM processes WHERE pid = {own}"),
        format!("SELECT pid FROM processes WHERE pid = '{own}'"),
        format!("SELECT pid FROM processes WHERE pid IN ({own}, -5, 'x')"),
    ] {
        assert_eq!(
            query(&engine, &sql).to_string_rows(),
            [[own.to_string()]],
            "{sql}"
        );
    }
    assert!(
        query(&engine, "SELECT pid FROM processes WHERE pid = 'x'")
            .rows
            .is_empty()
    );
    let counted = query(
        &engine,
        "SELECT count(*) FROM users u WHERE (SELECT count(*) FROM user_groups g WHERE g.uid = u.uid) = 0",
    );
    assert_eq!(counted.to_string_rows(), [["0"]]);
}

#[test]
fn the_address_of_the_default_route_is_found() {
    let output = query(
        &engine(),
        "SELECT a.address, d.mac FROM routes r JOIN interface_addresses a ON a.interface = r.interface \
         JOIN interface_details d ON d.interface = r.interface \
         WHERE r.destination IN ('0.0.0.0', '::') AND r.netmask = 0 AND r.type = 'gateway' \
         ORDER BY instr(a.address, '.') > 0 DESC, r.metric ASC",
    );
    assert!(output.warnings.is_empty(), "{:?}", output.warnings);
}

#[test]
fn free_space_and_software_are_asked_for_in_one_statement() {
    let engine = engine();
    let space = rows(
        &engine,
        "SELECT round(100.0 * blocks_available / blocks, 2) AS percent, \
         round(blocks_available * blocks_size * 1e-9, 2) AS gigabytes FROM mounts WHERE path = '/' LIMIT 1",
    );
    assert_eq!(space.len(), 1);
    let software = query(
        &engine,
        "SELECT name, version, 'deb' AS source FROM deb_packages WHERE status LIKE '% ok installed' \
         UNION SELECT name, version, 'rpm' FROM rpm_packages \
         UNION SELECT name, version, 'python' FROM python_packages \
         UNION SELECT name, version, 'npm' FROM npm_packages",
    );
    assert!(!software.rows.is_empty());
}

#[test]
fn version_columns_compare_as_versions() {
    let output = query(
        &engine(),
        "SELECT count(*) FROM deb_packages WHERE version < '0~~'",
    );
    assert_eq!(output.to_string_rows(), [["0"]]);
}

#[test]
fn statistics_of_the_schedule_join_with_flags() {
    let output = query(
        &engine(),
        "SELECT s.*, (SELECT value FROM osquery_flags WHERE name = 'pack_delimiter') AS delimiter \
         FROM osquery_schedule s WHERE s.blacklisted = 0",
    );
    assert!(output.rows.is_empty());
    assert_eq!(output.columns.last().map(String::as_str), Some("delimiter"));
}

#[test]
fn a_process_without_a_program_has_an_empty_path_as_in_osquery() {
    let sql = "SELECT count(*) FROM processes WHERE path IS NULL OR cmdline IS NULL OR cwd IS NULL OR root IS NULL";
    assert_eq!(query(&engine(), sql).to_string_rows(), [["0"]]);
}

//! Differences, checked against applying them and against what a real supervisor reports.

use proptest::prelude::*;

use super::super::document::File;
use super::*;

fn files(list: &[(&str, &str)]) -> Files {
    let file = |body: &str| File {
        body: body.to_owned(),
        content_type: "text/yaml".into(),
    };
    list.iter()
        .map(|(name, body)| ((*name).to_owned(), file(body)))
        .collect()
}

#[test]
fn lines_that_differ_are_shown_with_those_around_them() {
    let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
    let after = "a\nb\nc\nD\ne\nf\ng\nh\ni\nj\nk\nl\nm";
    insta::assert_snapshot!(unified(before, after), @r"
    @@ -1,7 +1,7 @@
     a
     b
     c
    -d
    +D
     e
     f
     g
    @@ -10,3 +10,4 @@
     j
     k
     l
    +m
    \ No newline at end of file
    ");
    assert_eq!(unified(before, before), "");
    assert_eq!(unified("", "x\n"), "@@ -0,0 +1 @@\n+x\n");
}

#[test]
fn files_that_come_and_go_are_told() {
    let before = files(&[("a", "1\n"), ("b", "2\n"), ("c", "3\n")]);
    let mut after = files(&[("", "0\n"), ("b", "2\n"), ("c", "4\n")]);
    after.get_mut("c").unwrap().content_type = "application/json".into();
    let diffs = between_files(&before, &after);
    let told: Vec<_> = diffs
        .iter()
        .map(|diff| (diff.name.as_str(), diff.change))
        .collect();
    assert_eq!(told, [("", "added"), ("a", "removed"), ("c", "changed")]);
    assert_eq!(
        diffs[2].diff,
        "content type: text/yaml -> application/json\n@@ -1 +1 @@\n-3\n+4\n"
    );
}

/// What opampsupervisor 0.158 reported of a collector with these settings, shortened: defaults are written out, and its own
/// extension is in it with a port and a process that change at every start.
const EFFECTIVE: &str = "\
exporters:
  debug: {output_paths: [stdout], sampling_initial: 2, sampling_thereafter: 1, verbosity: Basic}
  otlp:
    endpoint: backend:4317
    headers: {authorization: '[REDACTED]'}
    timeout: 5s
extensions:
  opamp:
    instance_uid: 019ab35c-0000-7000-8000-000000000001
    ppid: 4711
    ppid_poll_interval: 5s
    server: {ws: {endpoint: 'ws://127.0.0.1:39125/v1/opamp'}}
processors:
  batch: {metadata_cardinality_limit: 1000, send_batch_size: 8192, timeout: 200ms}
receivers:
  otlp: {protocols: {grpc: {endpoint: 127.0.0.1:4317, include_metadata: false}, http: null}}
service:
  extensions: [opamp]
  pipelines:
    logs: {exporters: [debug], processors: [batch], receivers: [otlp]}
  telemetry: {logs: {level: INFO}, resource: {service.name: otelcol-peer}}
";

const DESIRED: &str = "\
receivers: {otlp: {protocols: {grpc: {endpoint: 127.0.0.1:4317}}}}
processors: {batch: {timeout: 0.2s}}
exporters:
  debug:
  otlp: {endpoint: 'backend:4317', timeout: 5000ms, headers: {authorization: 'Bearer ${env:KEY}'}}
service:
  pipelines:
    logs: {receivers: [otlp], processors: [batch], exporters: [debug]}
";

#[test]
fn what_a_collector_reports_of_a_configuration_is_no_difference_to_it() {
    assert_eq!(
        effective_to_desired(&files(&[("", EFFECTIVE)]), &files(&[("", DESIRED)])),
        []
    );
    // After another start.
    let later = EFFECTIVE.replace("4711", "4999").replace("39125", "40001");
    assert_eq!(
        effective_to_desired(&files(&[("", &later)]), &files(&[("", DESIRED)])),
        []
    );
}

#[test]
fn what_would_really_change_is_told_by_path() {
    let desired = DESIRED
        .replace("timeout: 0.2s", "timeout: 10s")
        .replace("  debug:\n", "  debug/two: {verbosity: detailed}\n")
        .replace("exporters: [debug]", "exporters: [debug/two, otlp]")
        .replace(
            "service:\n",
            "extensions: {health_check: }\nservice:\n  extensions: [health_check]\n",
        )
        + "    traces: {receivers: [otlp], exporters: [otlp]}\n";
    let changes = effective_to_desired(&files(&[("", EFFECTIVE)]), &files(&[("", &desired)]));
    let lines: Vec<String> = changes
        .iter()
        .map(|change| {
            let part = |value: &Option<String>| value.clone().unwrap_or_default();
            format!(
                "{} {}: {} -> {}",
                change.change,
                change.path,
                part(&change.before),
                part(&change.after)
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// Applies a unified diff, so that what it says is checked by doing it.
fn applied(before: &str, diff: &str) -> String {
    let mut old = before
        .split_inclusive('\n')
        .collect::<std::collections::VecDeque<_>>();
    let mut text = String::new();
    let mut done = 0;
    let mut lines = diff.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        if let Some(range) = line.strip_prefix("@@ -") {
            let range = range.split(' ').next().unwrap();
            let (start, length) = range.split_once(',').unwrap_or((range, "1"));
            let start: usize = start.parse().unwrap();
            let skip = if length == "0" { start } else { start - 1 } - done;
            for _ in 0..skip {
                text.push_str(old.pop_front().unwrap());
            }
            done += skip;
            continue;
        }
        let ends = lines.peek().is_some_and(|next| next.starts_with('\\'));
        let body = if ends {
            line[1..].trim_end_matches('\n')
        } else {
            &line[1..]
        };
        match line.as_bytes()[0] {
            b' ' | b'-' => {
                assert_eq!(old.pop_front(), Some(body));
                done += 1;
                if line.starts_with(' ') {
                    text.push_str(body);
                }
            }
            b'+' => text.push_str(body),
            b'\\' => {}
            other => panic!("{other}"),
        }
    }
    text.extend(old);
    text
}

proptest! {
    #[test]
    fn a_diff_applied_to_the_one_gives_the_other(a in "([abc]\n){0,40}[abc]?", b in "([abc]\n){0,40}[abc]?") {
        prop_assert_eq!(applied(&a, &unified(&a, &b)), b);
    }

    #[test]
    fn a_diff_is_no_longer_than_it_must_be(lines in proptest::collection::vec("[a-z]{3}", 1..30), at in 0_usize..30) {
        let at = at % lines.len();
        let before = lines.join("\n") + "\n";
        let mut after = lines.clone();
        after.insert(at, "NEW".into());
        let diff = unified(&before, &(after.join("\n") + "\n"));
        prop_assert_eq!(diff.lines().filter(|line| line.starts_with(['+', '-'])).count(), 1);
    }
}

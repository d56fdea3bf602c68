//! Configurations as people write them, and what they are told.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::document::File;
use super::super::finding::{Severity, has_errors};
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

fn components() -> Components {
    Components::new([
        (Section::Receivers, "otlp"),
        (Section::Receivers, "nop"),
        (Section::Processors, "batch"),
        (Section::Exporters, "debug"),
        (Section::Exporters, "nop"),
        (Section::Extensions, "health_check"),
        (Section::Extensions, "opamp"),
    ])
}

fn told(list: &[(&str, &str)], available: Option<&Components>) -> String {
    let mut text = String::new();
    for finding in check(Kind::Collector, &files(list), available) {
        let _ = writeln!(text, "{finding}");
    }
    text
}

/// From the configuration with which a real collector of version 0.158 was run.
const GOOD: &str = "\
receivers: {otlp: {protocols: {grpc: {endpoint: \"127.0.0.1:4317\"}}}}
exporters: {debug: {}}
extensions:
  health_check: {endpoint: \"127.0.0.1:13133\"}
  opamp:
    server: {ws: {endpoint: \"wss://muster.example.com/v1/opamp\", headers: {Authorization: \"Bearer ${env:TOKEN}\"}}}
service:
  extensions: [health_check, opamp]
  telemetry: {metrics: {level: none}}
  pipelines: {logs: {receivers: [otlp], exporters: [debug]}}
";

#[test]
fn what_a_real_collector_runs_is_found_good() {
    assert_eq!(told(&[("", GOOD)], Some(&components())), "");
}

#[test]
fn parts_in_several_files_are_checked_together() {
    let list = [
        ("10-in.yaml", "receivers:\n  otlp: {}\n"),
        ("20-out.yaml", "exporters:\n  debug:\n"),
        (
            "",
            "service:\n  pipelines:\n    traces/main:\n      receivers: [otlp]\n      exporters: [debug]\n",
        ),
    ];
    assert_eq!(told(&list, Some(&components())), "");
    let wrong = [list[0], ("20-out.yaml", "exporters:\n  nop:\n"), list[2]];
    insta::assert_snapshot!(told(&wrong, Some(&components())), @r"
    (unnamed):5:19: error: the pipeline `traces/main` names `debug`, which is not among the exporters or connectors
    20-out.yaml:2:3: warning: the exporter `nop` is not used by any pipeline
    ");
}

#[test]
fn mistakes_are_told_with_their_place_and_what_to_do() {
    let base = "receivers:\n  otlp:\nprocessors:\n  batch:\nexporters:\n  debug:\n  nop:\n";
    let service = |text: &str| format!("{base}service:\n{text}");
    let cases = [
        ("nothing", String::new()),
        ("a list", "- a\n- b\n".to_owned()),
        ("a typing mistake", "recievers: {}\nservice: {pipelines: {logs: {receivers: [otlp], exporters: [debug]}}}\n".to_owned()),
        ("no service", base.to_owned()),
        ("no pipelines", service("  telemetry: {}\n")),
        ("empty pipelines", service("  pipelines:\n")),
        ("service of another kind", format!("{base}service: 5\n")),
        ("unknown member of service", service("  pipeline: {}\n  pipelines: {logs: {receivers: [otlp], exporters: [debug, \
            nop]}}\n")),
        ("unknown signal", service("  pipelines:\n    trace: {receivers: [otlp], exporters: [debug]}\n")),
        ("no exporter", service("  pipelines:\n    traces: {receivers: [otlp]}\n    logs: {receivers: [otlp], processors: \
            [batch], exporters: [debug, nop]}\n")),
        ("no receiver", service("  pipelines:\n    traces: {receivers: [], processors: [batch], exporters: [debug, \
            nop]}\n    logs: {receivers: [otlp], exporters: [nop]}\n")),
        ("not declared", service("  pipelines:\n    traces: {receivers: [otlp, otpl], processors: [batch, debug], \
            exporters: [debug/2, nop]}\n")),
        ("twice", service("  pipelines:\n    traces: {receivers: [otlp, otlp], processors: [batch, batch], exporters: \
            [debug, nop]}\n")),
        ("unknown part of a pipeline", service("  pipelines:\n    traces: {receiver: [otlp], receivers: [otlp], processors: \
            [batch], exporters: [debug, nop]}\n")),
        ("a name instead of a list", service("  pipelines:\n    traces: {receivers: otlp, processors: [batch], exporters: \
            [debug, 7]}\n")),
        ("section of another kind", "receivers: [otlp]\nexporters: {debug: }\nservice: {pipelines: {logs: {receivers: \
            [otlp], exporters: [debug]}}}\n".to_owned()),
        ("component of another kind", "receivers: {otlp: 5, /x: , 1: , otlp/: }\nexporters: {debug: }\nservice: {pipelines: \
            {logs: {receivers: [otlp], exporters: [debug]}}}\n".to_owned()),
        ("not among its components", "receivers: {otlp: , kafka: , otpl: }\nconnectors: {forward: }\nexporters: {debug: \
            }\nservice: {pipelines: {logs: {receivers: [otlp, kafka, otpl, forward], exporters: [debug, \
            forward]}}}\n".to_owned()),
        ("extension not declared", service("  extensions: [health_chek]\n  pipelines: {logs: {receivers: [otlp], \
            processors: [batch], exporters: [debug, nop]}}\n") + "extensions: {health_check: }\n"),
        ("half a connector", "receivers: {otlp: }\nconnectors: {forward: }\nexporters: {debug: }\nservice: {pipelines: \
            {logs: {receivers: [otlp], exporters: [debug, forward]}}}\n".to_owned()),
        ("names with what may not stand in them", "receivers: {otlp/a b: , otlp/a=b: , otlp/é: }\nexporters: {debug: \
            }\nservice: {pipelines: {logs/a b: {receivers: [otlp/é], exporters: [debug]}}}\n".to_owned()),
        ("twice by another spelling", "receivers: {otlp/a: , otlp / a: }\nexporters: {debug: }\nservice: {pipelines: \
            {logs/x: {receivers: [otlp/a], exporters: [debug]}, logs / x: {receivers: [otlp/a], exporters: \
            [debug]}}}\n".to_owned()),
        ("a connector called as an exporter", "receivers: {otlp: }\nconnectors: {nop: }\nexporters: {nop: }\nservice: \
            {pipelines: {logs: {receivers: [otlp], exporters: [nop]}, logs/2: {receivers: [nop], exporters: \
            [nop]}}}\n".to_owned()),
        ("a pipeline that feeds itself", "receivers: {otlp: }\nconnectors: {forward: }\nexporters: {debug: }\nservice: \
            {pipelines: {logs: {receivers: [otlp, forward], exporters: [debug, forward]}}}\n".to_owned()),
        ("a ring of pipelines", "receivers: {otlp: }\nconnectors: {forward/1: , forward/2: }\nexporters: {debug: }\n\
            service:\n  pipelines:\n    logs/in: {receivers: [otlp], exporters: [forward/1]}\n    logs/a: {receivers: \
            [forward/1], exporters: [forward/2]}\n    logs/b: {receivers: [forward/2], exporters: [forward/1, \
            debug]}\n".to_owned()),
        ("not YAML", "receivers:\n  otlp: [\n".to_owned()),
    ];
    let mut text = String::new();
    for (title, body) in &cases {
        let available = components();
        // Its connectors are not known then.
        let has_connectors =
            body.contains("connectors: {forward") && *title != "not among its components";
        let available = (!has_connectors).then_some(&available);
        let _ = writeln!(
            text,
            "## {title}\n{}",
            told(&[("otelcol.yaml", body)], available)
        );
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_a_collector_takes_for_the_same_is_the_same_here() {
    // With `otelcol validate` of version 0.158: spaces around types and names do not count, and nothing stands behind `---`.
    let text = "receivers: {\"otlp / x\": , nop/y: }\nprocessors: {\"batch/a \": }\nexporters: {debug: }\n\
        extensions: {\" health_check\": }\nservice:\n  extensions: [health_check]\n  pipelines:\n    \
        \"logs / main\": {receivers: [otlp/x, \"nop / y\"], processors: [\"batch / a\"], exporters: [debug]}\n---\n";
    assert_eq!(told(&[("a", text)], Some(&components())), "");
}

#[test]
fn connectors_between_pipelines_of_other_signals_make_no_ring() {
    let text = "receivers: {otlp: }\nconnectors: {count: , forward: }\nexporters: {debug: }\nservice:\n  pipelines:\n    \
        traces/in: {receivers: [otlp], exporters: [forward, count]}\n    \
        traces/out: {receivers: [forward], exporters: [count, debug]}\n    \
        metrics: {receivers: [count], exporters: [forward]}\n    \
        metrics/out: {receivers: [forward], exporters: [debug]}\n";
    let findings = check(Kind::Collector, &files(&[("a", text)]), None);
    assert!(!has_errors(&findings), "{findings:?}");
}

#[test]
fn as_much_as_a_file_can_have_is_checked_at_once() {
    let begun = std::time::Instant::now();
    let names = |prefix: &str, count: usize| {
        (0..count).fold(String::new(), |text, n| text + &format!("{prefix}{n},"))
    };
    let text = format!(
        "receivers: {{{}}}\nexporters: {{debug}}\nservice: {{pipelines: {{logs: {{receivers: [{}], exporters: [debug]}}}}}}\n",
        names("otlp/", 14_000),
        names("otlp/z", 14_000)
    );
    assert!(text.len() < super::super::document::MAX_FILE_BYTES * 2);
    let half = text.find("exporters").unwrap();
    let list = [("1", &text[..half]), ("2", &text[half..])];
    assert!(has_errors(&check(
        Kind::Collector,
        &files(&list),
        Some(&components())
    )));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn references_are_left_to_the_agent() {
    let list = [(
        "a",
        "receivers: ${file:/etc/receivers.yaml}\nexporters: {otlp: \"${env:OTLP}\"}\n\
         service:\n  pipelines:\n    logs: {receivers: [anything], exporters: ['${env:EXPORTER}', otlp]}\n\
         \x20   traces: ${file:traces.yaml}\n",
    )];
    assert_eq!(
        told(&list, None).lines().count(),
        1,
        "{}",
        told(&list, None)
    );
    assert!(told(&list, None).starts_with("warning: which components"));
}

#[test]
fn telemetry_that_is_no_mapping_and_pipelines_behind_a_gate_are_told() {
    // Tried with a collector of 0.158 (`otelcol validate`).
    for (telemetry, is_good) in [
        ("foo", false),
        ("[]", false),
        ("", true),
        ("${env:T}", true),
    ] {
        let text = GOOD.replace("{metrics: {level: none}}", telemetry);
        let told = told(&[("", &text)], Some(&components()));
        let expected = if is_good {
            String::new()
        } else {
            let kind = if telemetry == "foo" { "text" } else { "a list" };
            format!("(unnamed):9:3: error: `service.telemetry` is {kind}, and must be a mapping\n")
        };
        assert_eq!(told, expected, "{telemetry}");
    }
    let text = GOOD.replace("logs:", "profiles:");
    let told = told(&[("", &text)], Some(&components()));
    assert!(
        told.starts_with("(unnamed):10:15: warning: the pipeline `profiles` is of a signal"),
        "{told}"
    );
}

#[test]
fn components_that_are_not_known_are_a_warning_and_no_error() {
    let findings = check(Kind::Collector, &files(&[("", GOOD)]), None);
    assert!(!has_errors(&findings));
    assert_eq!(findings.len(), 1);
}

#[test]
fn other_agents_get_whatever_can_be_read() {
    let list = files(&[("elastic", "{\"logging_level\": \"debug\"}")]);
    assert_eq!(check(Kind::Other, &list, None), []);
    assert!(has_errors(&check(
        Kind::Other,
        &files(&[("elastic", "{\"a\": ")]),
        None
    )));
}

#[test]
fn of_very_many_findings_only_the_first_are_told() {
    let many: String = (0..500).fold(String::from("receivers:\n"), |text, n| {
        text + &format!("  '{n}!': \n")
    });
    let findings = check(Kind::Collector, &files(&[("a", &many)]), None);
    assert_eq!(findings.len(), super::super::finding::MAX_FINDINGS + 1);
    assert!(
        findings.last().unwrap().message.starts_with("and 45"),
        "{findings:?}"
    );
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("otlp".to_owned()),
        Just("nop".to_owned()),
        Just("debug".to_owned()),
        Just("otlp/2".to_owned()),
        Just("batch".to_owned())
    ]
}

proptest! {
    /// A second, short formulation of the main rule: what a pipeline names is declared where it is looked for.
    #[test]
    fn a_configuration_is_good_when_and_only_when_its_pipelines_name_what_is_declared(
        receivers in proptest::collection::btree_set(name(), 0..4),
        exporters in proptest::collection::btree_set(name(), 0..4),
        takes in proptest::collection::btree_set(name(), 0..3),
        sends in proptest::collection::btree_set(name(), 0..3),
    ) {
        let map = |names: &std::collections::BTreeSet<String>| -> serde_json::Value {
            names.iter().map(|name| (name.clone(), serde_json::json!({}))).collect::<serde_json::Map<_, _>>().into()
        };
        let body = serde_json::json!({
            "receivers": map(&receivers),
            "exporters": map(&exporters),
            "service": {"pipelines": {"logs": {"receivers": takes, "exporters": sends}}},
        });
        let findings = check(Kind::Collector, &files(&[("", &body.to_string())]), None);
        let is_good = !takes.is_empty() && !sends.is_empty() && takes.is_subset(&receivers) && sends.is_subset(&exporters);
        prop_assert_eq!(!has_errors(&findings), is_good, "{:?}", findings);
    }

    #[test]
    fn every_finding_names_a_line_that_is_there(
        text in "(receivers|exporters|service|pipelines|logs|[a-c:{}\\[\\], \\n-]){0,40}"
    ) {
        let findings = check(Kind::Collector, &files(&[("x", &text)]), None);
        for finding in findings.iter().filter(|finding| finding.severity == Severity::Error) {
            prop_assert!(finding.line.is_some_and(|line| line >= 1 && line <= text.lines().count().max(1) + 1), "{:?}", finding);
        }
    }
}

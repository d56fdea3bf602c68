//! What the program says about itself.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};
use muster_cli::arguments::CommandLine;

/// The short help of a command and of all below it.
fn describe(command: &mut Command, text: &mut String) {
    let _ = writeln!(
        text,
        "## {}\n\n{}",
        command
            .get_display_name()
            .unwrap_or(command.get_name())
            .replace('-', " "),
        command.render_help()
    );
    let names: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names.iter().filter(|name| *name != "help") {
        describe(command.find_subcommand_mut(name).unwrap(), text);
    }
}

fn each(command: &Command, check: &mut dyn FnMut(&Command)) {
    check(command);
    for subcommand in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        each(subcommand, check);
    }
}

#[test]
fn the_help_of_all_commands_is_as_recorded() {
    let mut command = CommandLine::command();
    command.build();
    command.clone().debug_assert();
    let mut text = String::new();
    describe(&mut command, &mut text);
    insta::assert_snapshot!(text);
}

#[test]
fn every_command_shows_examples() {
    each(&CommandLine::command(), &mut |command| {
        let help = command.clone().render_help().to_string();
        assert!(
            help.contains("Examples:\n  muster"),
            "{} has no examples",
            command.get_name()
        );
    });
}

#[test]
fn shells_get_completions_that_know_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = super::muster(folder.path(), &["completion", shell])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && text.contains("api-tokens"),
            "{shell}"
        );
    }
}

//! systemd's units, as `systemctl` tells them: it speaks to systemd over D-Bus, so that we need not.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::command;
use crate::error::TableError;
use crate::spec::ColumnType::{BigInt, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static SYSTEMD_UNITS: TableSpec = TableSpec {
    name: "systemd_units",
    description: "The units that systemd has loaded.",
    columns: &[
        column("id", Text),
        column("description", Text),
        column("load_state", Text),
        column("active_state", Text),
        column("sub_state", Text),
        column("unit_file_state", Text),
        column("following", Text),
        column("object_path", Text),
        column("job_id", BigInt),
        column("job_type", Text),
        column("job_path", Text),
        column("fragment_path", Text),
        column("user", Text),
        column("source_path", Text),
    ],
};

const PROPERTIES: &str = "--property=Id,Description,LoadState,ActiveState,SubState,UnitFileState,Following,Job,\
                          FragmentPath,User,SourcePath";

pub(crate) fn systemd_units(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    // systemd itself tells by this folder that it is running.
    if !context.path("/run/systemd/system").is_dir() {
        return Err(TableError::unsupported(
            "systemd is not running on this machine",
        ));
    }
    let program = ["/usr/bin/systemctl", "/bin/systemctl"]
        .into_iter()
        .find(|path| context.path(path).exists())
        .ok_or_else(|| TableError::unsupported("systemctl is not installed"))?;
    let shown = command::output(context, program, &["show", "--no-pager", PROPERTIES, "*"])?;
    let units: Vec<Unit<'_>> = shown.split("\n\n").filter_map(Unit::parse).collect();
    let jobs = if units.iter().any(|unit| unit.job_id() > 0) {
        command::output(
            context,
            program,
            &["list-jobs", "--no-pager", "--no-legend", "--plain"],
        )?
    } else {
        String::new()
    };
    let jobs = job_types(&jobs);
    for unit in units {
        let job_id = unit.job_id();
        let job_path = if job_id > 0 {
            format!("/org/freedesktop/systemd1/job/{job_id}")
        } else {
            "/".to_owned()
        };
        rows.row()
            .set("id", unit.get("Id"))
            .set("description", unit.get("Description"))
            .set("load_state", unit.get("LoadState"))
            .set("active_state", unit.get("ActiveState"))
            .set("sub_state", unit.get("SubState"))
            .set("unit_file_state", unit.get("UnitFileState"))
            .set("following", unit.get("Following"))
            .set("object_path", object_path(unit.get("Id")))
            .set("job_id", job_id)
            .set("job_type", jobs.get(&job_id).copied().unwrap_or_default())
            .set("job_path", job_path)
            .set("fragment_path", unit.get("FragmentPath"))
            .set("user", unit.get("User"))
            .set("source_path", unit.get("SourcePath"))
            .push()?;
    }
    Ok(())
}

/// The properties of one unit.
struct Unit<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Unit<'a> {
    /// Reads the lines `Name=value` between two empty ones.
    fn parse(block: &'a str) -> Option<Self> {
        let properties: BTreeMap<_, _> = block
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        properties.contains_key("Id").then_some(Self(properties))
    }

    fn get(&self, property: &str) -> &'a str {
        self.0.get(property).copied().unwrap_or_default()
    }

    fn job_id(&self) -> i64 {
        self.get("Job").parse().unwrap_or(0)
    }
}

/// What kind of job each is, from lines of number, unit, type and state.
fn job_types(listed: &str) -> BTreeMap<i64, &str> {
    listed
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some((words.first()?.parse().ok()?, *words.get(2)?))
        })
        .collect()
}

/// Where a unit is on D-Bus: what is no ASCII letter or digit is written in hexadecimal, a leading digit too.
fn object_path(id: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (index, byte) in id.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || byte.is_ascii_digit() && index > 0 {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "_{byte:02x}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_prints_becomes_units_and_jobs() {
        let shown = "Id=ssh.service\nFollowing=\nDescription=OpenBSD = Secure Shell server\nJob=812\n\n\
                     Id=dev-sda1.device\nFollowing=sys-devices.device\nDescription=Disk\n\nbroken\n";
        let units: Vec<Unit<'_>> = shown.split("\n\n").filter_map(Unit::parse).collect();
        assert_eq!(units.len(), 2);
        assert_eq!(units[0].get("Description"), "OpenBSD = Secure Shell server");
        assert_eq!((units[0].job_id(), units[1].job_id()), (812, 0));
        assert_eq!(units[1].get("Following"), "sys-devices.device");
        let jobs = job_types("812 ssh.service start waiting\n 9 x.target stop running\nnothing\n");
        assert_eq!(jobs[&812], "start");
        assert_eq!(jobs.len(), 2);
    }

    #[test]
    fn object_paths_are_escaped_as_systemd_does() {
        assert_eq!(
            object_path("dev-sda1.device"),
            "/org/freedesktop/systemd1/unit/dev_2dsda1_2edevice"
        );
        assert_eq!(
            object_path("1.mount"),
            "/org/freedesktop/systemd1/unit/_31_2emount"
        );
    }
}

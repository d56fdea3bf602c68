//! User accounts and groups, from `/etc/passwd` and `/etc/group`.
//!
//! Accounts that come from elsewhere (LDAP, systemd-homed) are not here: asking for them needs the C library's
//! plug-ins.

use std::collections::BTreeMap;

use crate::error::TableError;
use crate::spec::Collation::NoCase;
use crate::spec::ColumnType::{BigInt, Integer, Text};
use crate::spec::{TableSpec, column};
use crate::table::{Constraints, Context, RowSink};

pub(crate) static USERS: TableSpec = TableSpec {
    name: "users",
    description: "The user accounts in /etc/passwd.",
    columns: &[
        column("uid", BigInt).index(),
        column("gid", BigInt),
        column("uid_signed", BigInt),
        column("gid_signed", BigInt),
        column("username", Text).additional(),
        column("description", Text),
        column("directory", Text),
        column("shell", Text),
        column("uuid", Text).collate(NoCase).index(),
        column("type", Text).foreign(),
        column("is_hidden", Integer).foreign(),
        column("pid_with_namespace", Integer).additional().hidden(),
        column("include_remote", Integer).additional().hidden(),
    ],
};

pub(crate) static GROUPS: TableSpec = TableSpec {
    name: "groups",
    description: "The groups in /etc/group.",
    columns: &[
        column("gid", BigInt).index(),
        column("gid_signed", BigInt),
        column("groupname", Text),
        column("group_sid", Text).index().foreign(),
        column("comment", Text).foreign(),
        column("is_hidden", Integer).foreign(),
        column("pid_with_namespace", Integer).additional().hidden(),
    ],
};

pub(crate) static USER_GROUPS: TableSpec = TableSpec {
    name: "user_groups",
    description: "Which user belongs to which group.",
    columns: &[
        column("uid", BigInt).index().optimized(),
        column("gid", BigInt).index(),
    ],
};

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) description: String,
    pub(super) directory: String,
    pub(super) shell: String,
}

/// A line of `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    gid: i64,
    members: Vec<String>,
}

/// The accounts in `/etc/passwd`.
pub(super) fn read_users(context: &Context<'_>) -> Result<Vec<User>, TableError> {
    Ok(parse_users(&context.read_text("/etc/passwd")?))
}

/// The accounts that a query is about, by its constraint on `uid`.
pub(super) fn users_asked_for(
    constraints: &Constraints,
    context: &Context<'_>,
) -> Result<Vec<User>, TableError> {
    let wanted = constraints.equal("uid").map(|_| constraints.integer("uid"));
    let mut users = read_users(context)?;
    users.retain(|user| wanted.is_none_or(|wanted| wanted == Some(user.uid)));
    Ok(users)
}

fn parse_users(text: &str) -> Vec<User> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, description, directory, shell] = fields[..] else {
                return None;
            };
            Some(User {
                name: name.to_owned(),
                uid: uid.parse::<u32>().ok()?.into(),
                gid: gid.parse::<u32>().ok()?.into(),
                description: description.to_owned(),
                directory: directory.to_owned(),
                shell: shell.to_owned(),
            })
        })
        .collect()
}

fn parse_groups(text: &str) -> Vec<Group> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members] = fields[..] else {
                return None;
            };
            Some(Group {
                name: name.to_owned(),
                gid: gid.parse::<u32>().ok()?.into(),
                members: members
                    .split(',')
                    .map(str::trim)
                    .filter(|member| !member.is_empty())
                    .map(str::to_owned)
                    .collect(),
            })
        })
        .collect()
}

/// As the kernel's 32 bits read with a sign, which is how some systems write `nobody`.
fn signed(id: i64) -> i64 {
    i64::from(id as i32)
}

pub(crate) fn users(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for user in read_users(context)? {
        rows.row()
            .set("uid", user.uid)
            .set("gid", user.gid)
            .set("uid_signed", signed(user.uid))
            .set("gid_signed", signed(user.gid))
            .set("username", user.name)
            .set("description", user.description)
            .set("directory", user.directory)
            .set("shell", user.shell)
            .set("include_remote", 0)
            .push()?;
    }
    Ok(())
}

pub(crate) fn groups(
    _: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    for group in parse_groups(&context.read_text("/etc/group")?) {
        rows.row()
            .set("gid", group.gid)
            .set("gid_signed", signed(group.gid))
            .set("groupname", group.name)
            .push()?;
    }
    Ok(())
}

pub(crate) fn user_groups(
    constraints: &Constraints,
    context: &Context<'_>,
    rows: &mut RowSink<'_>,
) -> Result<(), TableError> {
    let mut memberships: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for group in parse_groups(&context.read_text("/etc/group")?) {
        for member in group.members {
            memberships.entry(member).or_default().push(group.gid);
        }
    }
    for user in users_asked_for(constraints, context)? {
        let mut gids = vec![user.gid];
        for gid in memberships.get(&user.name).into_iter().flatten() {
            if !gids.contains(gid) {
                gids.push(*gid);
            }
        }
        for gid in gids {
            rows.row().set("uid", user.uid).set("gid", gid).push()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_accounts_are_left_out() {
        let users =
            parse_users("root:x:0:0:root:/root:/bin/bash\n+::::::\n# comment\nbad:x:-1:0:::\n");
        assert_eq!(users.len(), 1);
        assert_eq!(
            (users[0].name.as_str(), users[0].shell.as_str()),
            ("root", "/bin/bash")
        );
        let groups = parse_groups("sudo:x:27:ada, grace,\nempty:x:5:\nbroken\n");
        assert_eq!(groups[0].members, ["ada", "grace"]);
        assert_eq!(groups.len(), 2);
        assert_eq!(signed(4_294_967_294), -2);
    }
}

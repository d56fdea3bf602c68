//! Users and groups as `getent` shows them.

use crate::support::{engine, eventually, rows, run, same};

#[test]
fn users_and_groups_agree_with_getent() {
    let engine = engine();
    eventually(|| {
        let ours = rows(&engine, "SELECT * FROM users")
            .into_iter()
            .map(|user| {
                [
                    user["username"].clone(),
                    user["uid"].clone(),
                    user["gid"].clone(),
                    user["description"].clone(),
                    user["directory"].clone(),
                    user["shell"].clone(),
                ]
            })
            .collect();
        let theirs = run("libc-bin", "getent", &["passwd"])
            .lines()
            .map(|line| {
                let fields: Vec<String> = line.split(':').map(str::to_owned).collect();
                [0, 2, 3, 4, 5, 6].map(|index| fields[index].clone())
            })
            .collect();
        same(ours, theirs)
    });
    eventually(|| {
        let ours = rows(&engine, "SELECT groupname, gid FROM groups")
            .into_iter()
            .map(|group| (group["groupname"].clone(), group["gid"].clone()))
            .collect();
        let theirs = run("libc-bin", "getent", &["group"])
            .lines()
            .map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                (fields[0].to_owned(), fields[2].to_owned())
            })
            .collect();
        same(ours, theirs)
    });
}

#[test]
fn the_groups_of_every_user_agree_with_id() {
    let engine = engine();
    for user in rows(&engine, "SELECT uid, username FROM users") {
        eventually(|| {
            let sql = format!("SELECT gid FROM user_groups WHERE uid = {}", user["uid"]);
            let ours = rows(&engine, &sql)
                .into_iter()
                .map(|row| row["gid"].clone())
                .collect();
            let theirs = run("coreutils", "id", &["-G", &user["username"]])
                .split_whitespace()
                .map(str::to_owned)
                .collect();
            same(ours, theirs)
        });
    }
}

//! Requirements on attributes as lists take them: `os.type,host.name=edge-1,region="eu, west"`.

/// Which attribute, and with which value when one is named.
pub(crate) type Requirement = (String, Option<String>);

/// Reads requirements that stand between commas. A name or value with a comma stands in double quotes, in which `\` makes the
/// next character an ordinary one. Gives what is wrong and what would be right.
pub(crate) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut requirements = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let name = word(&mut rest, true)?;
        let value = if rest.next_if_eq(&'=').is_some() {
            Some(word(&mut rest, false)?)
        } else {
            None
        };
        match (name.is_empty(), &value) {
            (false, _) => requirements.push((name, value)),
            // A comma too many.
            (true, None) => {}
            (true, Some(value)) => return Err(format!("has no name before \"={value}\"")),
        }
        match rest.next() {
            None => return Ok(requirements),
            Some(',') => {}
            Some(other) => {
                return Err(format!(
                    "has {other:?} after a closing quote; write \\\" for a quote inside of quotes"
                ));
            }
        }
    }
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// A name or a value, without the spaces around it unless they stand in quotes.
fn word(rest: &mut Rest<'_>, is_name: bool) -> Result<String, String> {
    let skip_spaces = |rest: &mut Rest<'_>| while rest.next_if(|c| c.is_whitespace()).is_some() {};
    skip_spaces(rest);
    let mut word = String::new();
    if rest.next_if_eq(&'"').is_none() {
        while let Some(character) = rest.next_if(|c| *c != ',' && !(is_name && *c == '=')) {
            word.push(character);
        }
        return Ok(word.trim_end().to_owned());
    }
    loop {
        match rest.next() {
            Some('"') => break,
            Some('\\') => word.extend(rest.next()),
            Some(character) => word.push(character),
            None => return Err("has a quote that is not closed".to_owned()),
        }
    }
    skip_spaces(rest);
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, Option<String>)> {
        parse(text).unwrap()
    }

    #[test]
    fn values_with_commas_stand_in_quotes() {
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        for (text, expected) in [
            ("os.type", vec![pair("os.type", None)]),
            (
                " os.type , a = b c ,, ",
                vec![pair("os.type", None), pair("a", Some("b c"))],
            ),
            ("query=a=b", vec![pair("query", Some("a=b"))]),
            ("empty=", vec![pair("empty", Some(""))]),
            (
                r#"region="eu, west",x"#,
                vec![pair("region", Some("eu, west")), pair("x", None)],
            ),
            (
                r#"say=" \"hi\" \\ ""#,
                vec![pair("say", Some(" \"hi\" \\ "))],
            ),
            (r#""odd,=name"=1"#, vec![pair("odd,=name", Some("1"))]),
            ("inner=a\"b", vec![pair("inner", Some("a\"b"))]),
            ("", vec![]),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
        for (text, wrong) in [
            ("a=\"b", "not closed"),
            ("a=\"b\"c", "after a closing quote"),
            ("=b", "no name"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}

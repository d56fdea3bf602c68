use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::*;

/// 24 November 2026.
const NOW: Timestamp = Timestamp::from_seconds(1_795_500_000);
const URL: &str = "https://muster.example.com:8443/prefix";

/// An authority, as PEM and as what signs.
fn authority(
    name: &str,
    signed_by: Option<&Issuer<'_, KeyPair>>,
) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = date_time_ymd(2027, 1, 1);
    let certificate = match signed_by {
        None => params.self_signed(&key),
        Some(issuer) => params.signed_by(&key, issuer),
    };
    (certificate.unwrap().pem(), Issuer::new(params, key))
}

/// A server's certificate, as PEM.
fn leaf(name: &str, issuer: &Issuer<'_, KeyPair>) -> String {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.signed_by(&key, issuer).unwrap().pem()
}

fn judged(
    named: Option<&str>,
    chain: Option<&str>,
    now: Timestamp,
) -> Result<Option<String>, &'static str> {
    let chain = chain.map(|pem| (parsed(pem), pem.to_owned()));
    judge(named, chain, URL, now)
}

#[test]
fn the_end_of_a_chain_is_named_when_it_signs_the_certificate() {
    let (root, signs) = authority("root", None);
    let (between, issues) = authority("between", Some(&signs));
    let (other, _) = authority("other", None);
    let leaf = leaf("muster.example.com", &issues);
    let chain = |others: &[&str]| format!("{leaf}{}", others.concat());
    let named = |others: &[&str], now| judged(None, Some(&chain(others)), now);
    assert_eq!(named(&[&between], NOW), Ok(Some(between.clone())));
    assert_eq!(named(&[&between, &root], NOW), Ok(Some(root.clone())));
    for wrong in [&[&*other][..], &[&between, &other], &[&root]] {
        assert!(named(wrong, NOW).unwrap_err().contains("in the order"));
    }
    let later = NOW.plus(Duration::from_secs(60 * 24 * 60 * 60));
    assert!(named(&[&between], later).is_err(), "it has run out");
    assert_eq!(judged(None, Some(&leaf), NOW), Ok(Some(leaf.clone())));
    let (itself, _) = authority("muster.example.com", None);
    assert_eq!(judged(None, Some(&itself), NOW), Ok(Some(itself.clone())));
    assert!(
        judged(None, None, NOW)
            .unwrap_err()
            .contains("opamp.ca_file")
    );
    assert_eq!(judge(None, None, "http://muster:8080", NOW), Ok(None));
}

#[test]
fn what_operators_name_is_taken_unless_agents_would_not_believe_the_server() {
    let (old, _) = authority("old", None);
    let (new, issues) = authority("new", None);
    let chain = leaf("muster.example.com", &issues) + &new;
    assert!(
        judged(Some(&old), Some(&chain), NOW)
            .unwrap_err()
            .contains("opamp.ca_file")
    );
    let both = format!("{old}{new}");
    assert_eq!(
        judged(Some(&both), Some(&chain), NOW),
        Ok(Some(both.clone()))
    );
    assert_eq!(
        judged(Some(&old), None, NOW),
        Ok(Some(old.clone())),
        "a proxy speaks TLS"
    );
    let inside = leaf("muster.internal", &issues) + &new;
    let named = judged(Some(&old), Some(&inside), NOW);
    assert_eq!(
        named,
        Ok(Some(old.clone())),
        "agents find the certificate of a proxy"
    );
    assert!(judged(Some(""), Some(&chain), NOW).is_err());
}

#[test]
fn nothing_but_certificates_is_told_to_agents() {
    let (pem, _) = authority("root", None);
    let private = KeyPair::generate().unwrap().serialize_pem();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.pem");
    fs::write(
        &file,
        format!("# ours\n{private}{pem}\n{private}{pem}{private}"),
    )
    .unwrap();
    assert_eq!(named(&file).unwrap(), format!("{pem}{pem}"));
    fs::write(&file, private).unwrap();
    assert_eq!(named(&file).unwrap(), "");
}

//! What offers name while certificates are replaced.

use std::fs;
use std::path::{Path, PathBuf};

use muster_server::start::Running;
use muster_wire_opamp::proto::ServerToAgent;
use serde_json::json;

use super::{described, key_of, message, post_to, token};
use crate::running;
use crate::site::Site;

/// Two authorities with a certificate each, and the files that a server takes.
struct Issued {
    folder: PathBuf,
    authorities: Vec<String>,
}

impl Issued {
    async fn new(folder: &Path) -> Self {
        let mut authorities = Vec::new();
        for name in ["0", "1"] {
            let server = running(&folder.join(name), &[]).await;
            authorities.push(server.authority_pem.clone().unwrap());
            server.shut_down().await;
        }
        let folder = folder.to_owned();
        Self {
            folder,
            authorities,
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Puts a certificate with its key and its chain where the server finds them.
    fn install(&self, number: usize) {
        let from = self.folder.join(number.to_string()).join("tls");
        fs::copy(from.join("server.pem"), self.file("cert.pem")).unwrap();
        fs::copy(from.join("server.key"), self.file("key.pem")).unwrap();
    }

    async fn serve(&self, more: &[(&str, &str)]) -> (Running, Site) {
        let (certificate, key) = (self.file("cert.pem"), self.file("key.pem"));
        let files = [("tls.certificate", &*certificate), ("tls.key", &*key)];
        let data = self.folder.join("data");
        let server = running(&data, &[&files[..], more].concat()).await;
        let trusted = self.authorities.iter();
        let trusted = trusted.map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
        let http = reqwest::Client::builder()
            .tls_certs_only(trusted)
            .build()
            .unwrap();
        let base = format!("https://localhost:{}", server.address.port());
        let link = server.setup_link.clone().unwrap();
        let site = Site::set_up(http, base, &link).await;
        (server, site)
    }
}

/// The authority that an offer names; none without an offer.
fn named(answer: &ServerToAgent) -> Option<String> {
    let offer = answer.connection_settings.as_ref()?.opamp.as_ref()?;
    let pem = offer.certificate.as_ref().expect("an offer names one");
    Some(String::from_utf8(pem.ca_cert.to_vec()).unwrap())
}

#[tokio::test]
async fn offers_name_the_authority_of_the_certificate_that_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let issued = Issued::new(folder.path()).await;
    let [old, new] = [0, 1].map(|number| Some(issued.authorities[number].clone()));
    issued.install(0);
    let (server, site) = issued.serve(&[]).await;
    let url = format!("{}/v1/opamp", site.base);
    let (_, token) = token(&site).await;
    let come = async |uid| {
        post_to(&site.http, &url, &token, &described(uid, 0))
            .await
            .1
            .unwrap()
    };
    let answer = come(7).await;
    assert_eq!(named(&answer), old);
    let key = key_of(&answer);
    let adopted = post_to(&site.http, &url, &key, &described(7, 0)).await;
    assert_eq!(adopted.0, 200);

    issued.install(1);
    server.reload().await;
    assert_eq!(named(&come(8).await), new, "who enrolls");
    let rotate = "/api/muster/collectors/1/rotate-key";
    assert_eq!(site.post(rotate, &json!({})).await.status, 204);
    let (_, answer) = post_to(&site.http, &url, &key, &message(7, 1)).await;
    assert_eq!(named(&answer.unwrap()), new, "whose key is renewed");

    let certificate = fs::read_to_string(issued.file("cert.pem")).unwrap();
    let (leaf, _) = certificate.split_at(certificate.rfind("-----BEGIN").unwrap());
    let wrong = format!("{leaf}{}", issued.authorities[0]);
    fs::write(issued.file("cert.pem"), wrong).unwrap();
    server.reload().await;
    assert_eq!(
        named(&come(9).await),
        None,
        "nobody would believe the server by this"
    );
    issued.install(0);
    server.reload().await;
    assert_eq!(named(&come(10).await), old);
    server.shut_down().await;
}

#[tokio::test]
async fn the_authorities_that_an_operator_names_are_read_again_and_have_to_fit() {
    let folder = tempfile::tempdir().unwrap();
    let issued = Issued::new(folder.path()).await;
    let [old, new] = [0, 1].map(|number| issued.authorities[number].clone());
    issued.install(0);
    let file = issued.file("authorities.pem");
    fs::write(&file, &old).unwrap();
    let (server, site) = issued.serve(&[("opamp.ca_file", &file)]).await;
    let url = format!("{}/v1/opamp", site.base);
    let (_, token) = token(&site).await;
    let come = async |uid| {
        post_to(&site.http, &url, &token, &described(uid, 0))
            .await
            .1
            .unwrap()
    };
    assert_eq!(named(&come(7).await), Some(old.clone()));
    issued.install(1);
    server.reload().await;
    assert_eq!(named(&come(8).await), None);
    let both = format!("{old}{new}");
    fs::write(&file, format!("# old and new\n{both}")).unwrap();
    server.reload().await;
    assert_eq!(named(&come(9).await), Some(both.clone()));
    fs::remove_file(&file).unwrap();
    server.reload().await;
    assert_eq!(named(&come(10).await), Some(both), "what it said before");
    server.shut_down().await;
}

//! The certificate of a server, and the TLS set-ups that go with it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, CertifiedKey, IsCa, KeyPair};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::SERVER_NAME;
use crate::error::BenchError;

/// A P-256 key with a certificate, which signs itself unless an [`Authority`] has issued it.
pub(crate) struct Certificate {
    pub(super) der: Vec<u8>,
    /// The private key, as PKCS #8.
    pub(super) key: Vec<u8>,
}

/// Certifies servers that are several.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Certificate {
    pub(super) fn new() -> Result<Self, BenchError> {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).map_err(BenchError::wrong)?;
        Ok(Self { der: cert.der().to_vec(), key: signing_key.serialize_der() })
    }

    /// Keeps it as `NAME.crt` and `NAME.key`, in PEM, as servers of the web want it.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> Result<(), BenchError> {
        fs::write(directory.join(format!("{name}.crt")), pem("CERTIFICATE", &self.der))?;
        Ok(fs::write(directory.join(format!("{name}.key")), pem("PRIVATE KEY", &self.key))?)
    }

    /// Reads what [`Certificate::write`] has written.
    pub(crate) fn read(directory: &Path, name: &str) -> Result<Self, BenchError> {
        let certificate = CertificateDer::from_pem_file(directory.join(format!("{name}.crt")));
        let key = PrivatePkcs8KeyDer::from_pem_file(directory.join(format!("{name}.key")));
        let key = key.map_err(BenchError::wrong)?.secret_pkcs8_der().to_vec();
        Ok(Self { der: certificate.map_err(BenchError::wrong)?.to_vec(), key })
    }

    /// What a client gets to know.
    pub(super) fn credential(&self) -> String {
        BASE64.encode(&self.der)
    }

    pub(super) fn server_config(self, protocol: Option<&[u8]>) -> Result<ServerConfig, BenchError> {
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(BenchError::wrong)?;
        let (chain, key) = (vec![CertificateDer::from(self.der)], PrivatePkcs8KeyDer::from(self.key).into());
        let mut config = config.with_no_client_auth().with_single_cert(chain, key).map_err(BenchError::wrong)?;
        config.alpn_protocols.extend(protocol.map(<[u8]>::to_vec));
        Ok(config)
    }
}

impl Authority {
    /// A new one, whom nobody knows.
    pub(crate) fn new() -> Result<Self, BenchError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(BenchError::wrong)?;
        CertifiedIssuer::self_signed(params, key).map(Self).map_err(BenchError::wrong)
    }

    /// A certificate for a server of that name.
    pub(crate) fn issue(&self, name: &str) -> Result<Certificate, BenchError> {
        let key = KeyPair::generate().map_err(BenchError::wrong)?;
        let params = CertificateParams::new([name.to_owned()]).map_err(BenchError::wrong)?;
        let certificate = params.signed_by(&key, &self.0).map_err(BenchError::wrong)?;
        Ok(Certificate { der: certificate.der().to_vec(), key: key.serialize_der() })
    }

    /// What a client gets to know.
    pub(crate) fn credential(&self) -> String {
        BASE64.encode(self.0.der())
    }
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let lines = base64.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line)));
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}

/// Trusts the certificate of that credential, and no other. Sessions are not resumed: each handshake is a whole one.
pub(super) fn client_config(credential: &str, protocol: Option<&[u8]>) -> Result<ClientConfig, BenchError> {
    let certificate = BASE64.decode(credential.as_bytes()).map_err(BenchError::wrong)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate)).map_err(BenchError::wrong)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(BenchError::wrong)?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols.extend(protocol.map(<[u8]>::to_vec));
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    Ok(config)
}

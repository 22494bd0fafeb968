//! The certificate of a server, and the TLS set-ups that go with it.

use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::CertifiedKey;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::SERVER_NAME;
use crate::error::BenchError;

/// A P-256 key with a certificate that signs itself.
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    /// The private key, as PKCS #8.
    pub(super) key: Vec<u8>,
}

impl Certificate {
    pub(super) fn new() -> Result<Self, BenchError> {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).map_err(BenchError::wrong)?;
        Ok(Self { der: cert.der().to_vec(), key: signing_key.serialize_der() })
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

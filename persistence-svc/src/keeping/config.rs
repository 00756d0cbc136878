//! The sections `[persistence.retention]` and `[persistence.archive]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use secrecy::{ExposeSecret as _, SecretString};
use switchboard_service_kit::config::{Document, Section};

use super::archive::{Archive, ArchiveError};
use super::{Policy, Retention};

/// How long messages are kept, and where they are kept then.
#[derive(Debug, Clone)]
pub struct KeepingSettings {
    /// How long.
    pub policy: Policy,
    /// Between two looks at what is over.
    pub interval: Duration,
    /// Where what expires is kept; `None`: nowhere.
    pub archive: Option<ArchiveSettings>,
}

/// Where the archive is.
#[derive(Debug, Clone)]
pub enum ArchiveSettings {
    /// A folder.
    Folder(PathBuf),
    /// A bucket of an S3-compatible service.
    S3 {
        /// The bucket.
        bucket: String,
        /// What all names begin with.
        prefix: String,
        /// The service; `None`: that of AWS.
        endpoint: Option<String>,
        /// The region.
        region: String,
        /// Without it the environment of the machine is asked.
        access_key: Option<String>,
        /// With it.
        secret_key: Option<SecretString>,
    },
}

/// No duration that is longer is of use to anybody.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

impl KeepingSettings {
    /// Reads both sections, and one more for each namespace that is named.
    pub fn read(document: &mut Document) -> Self {
        let mut section = document.section("persistence.retention");
        let interval = section.duration(
            "interval",
            Duration::from_secs(600),
            Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60),
            "How often it is looked for messages that are over.",
        );
        let others = read_retention(&mut section, Retention::default());
        let mut policy = Policy {
            others,
            ..Policy::default()
        };
        for name in document.names("persistence.retention") {
            let mut section = document.section(&format!("persistence.retention.{name}"));
            let retention = read_retention(&mut section, others);
            policy.namespaces.insert(name, retention);
        }
        Self {
            policy,
            interval,
            archive: read_archive(&mut document.section("persistence.archive")),
        }
    }
}

fn read_retention(section: &mut Section<'_>, default: Retention) -> Retention {
    let time = section.duration(
        "time",
        default.time.unwrap_or_default(),
        Duration::ZERO..=LONGEST,
        "How long messages are kept in the store; 0s: for ever. [persistence.retention.NAME] says it for the channels of a namespace.",
    );
    let count = section.integer(
        "count",
        default.count.unwrap_or_default(),
        0..=i64::MAX as u64,
        "Messages of each channel that are kept, the newest; 0: all.",
    );
    Retention {
        time: (!time.is_zero()).then_some(time),
        count: (count > 0).then_some(count),
    }
}

fn read_archive(section: &mut Section<'_>) -> Option<ArchiveSettings> {
    let folder = section.optional_text(
        "folder",
        "A folder in which messages are kept when they expire, and which erasures and holds a store that is made anew has to know. With \
         neither a folder nor a bucket what expires is deleted for good.",
    );
    let bucket = section.optional_text(
        "bucket",
        "A bucket of an S3-compatible service, instead of a folder.",
    );
    let prefix = section.text("prefix", "switchboard", "What names in the bucket begin with.");
    let endpoint = section.optional_text(
        "endpoint",
        "The service's address, such as `https://minio.example:9000`; otherwise that of AWS. Plain http is taken on loopback alone.",
    );
    let region = section.text("region", "us-east-1", "The bucket's region.");
    let access_key = section.optional_text(
        "access_key",
        "The id of the access key. Without one the machine's role is used.",
    );
    let secret_key = section.secret("secret_key", "The secret access key.");
    if folder.is_some() && bucket.is_some() {
        section.fault("bucket", "is there beside folder", "name one of both");
    }
    let is_plain = |endpoint: &str| {
        let host = endpoint.strip_prefix("http://");
        host.is_some_and(|host| {
            !["127.0.0.1", "localhost", "[::1]"]
                .iter()
                .any(|loopback| host == *loopback || host.starts_with(&format!("{loopback}:")))
        })
    };
    if endpoint.as_deref().is_some_and(is_plain) {
        section.fault("endpoint", "is plain http to another machine", "use https");
    }
    if access_key.is_some() != secret_key.is_some() {
        section.fault(
            "access_key",
            "needs secret_key, and the other way round",
            "name both or none",
        );
    }
    match (folder, bucket) {
        (Some(folder), _) => Some(ArchiveSettings::Folder(folder.into())),
        (None, Some(bucket)) => Some(ArchiveSettings::S3 {
            bucket,
            prefix,
            endpoint,
            region,
            access_key,
            secret_key,
        }),
        (None, None) => None,
    }
}

impl ArchiveSettings {
    /// Opens the archive. A folder is made where it is missing; whether a bucket can be reached is not asked.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn open(&self) -> Result<Archive, ArchiveError> {
        match self {
            Self::Folder(folder) => {
                std::fs::create_dir_all(folder)
                    .map_err(|error| ArchiveError::Made(format!("folder {}: {error}", folder.display())))?;
                // Rows are deleted once they are here: what is here has to outlast a power cut.
                let objects = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
                Ok(Archive::new(Arc::new(objects), Path::default()))
            }
            Self::S3 {
                bucket,
                prefix,
                endpoint,
                region,
                access_key,
                secret_key,
            } => {
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region);
                if let Some(endpoint) = endpoint {
                    // Anything but loopback was refused.
                    builder = builder
                        .with_endpoint(endpoint)
                        .with_allow_http(endpoint.starts_with("http://"));
                }
                if let (Some(access_key), Some(secret_key)) = (access_key, secret_key) {
                    builder = builder
                        .with_access_key_id(access_key)
                        .with_secret_access_key(secret_key.expose_secret());
                }
                Ok(Archive::new(
                    Arc::new(builder.build()?),
                    Path::from(prefix.as_str()),
                ))
            }
        }
    }
}

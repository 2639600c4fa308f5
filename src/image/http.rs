//! The distribution API of a registry over HTTP.
//!
//! Written on `reqwest`, with the wire types of `oci-client`: the client of that crate follows
//! redirects, reads answers without a bound and does not say which status came, and here every
//! answer is hostile. The rules:
//!
//! - Credentials and tokens go to the registry's own origin (scheme, host, port), and to the token
//!   endpoint that it names. A redirect to another origin loses them.
//! - Redirects go to `https`; to plain `http` only on loopback and from a registry that is
//!   `insecure` itself. At most [`TransferLimits::redirects`].
//! - A `401` is answered with credentials once a request.
//! - Broken connections, `429` and `5xx` are tried again, [`TransferLimits::attempts`] times.
//! - Every wait has an end: connecting, an answer, the next [`TransferLimits::idle_bytes`].

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use url::{Origin, Url};

use super::auth::{Credential, RegistryAccess, is_loopback};
use super::digest::Digest;
use super::error::{Reason, TransportError, printable};
use super::limits::{ERROR_BODY_BYTES, MAX_RETRY_AFTER, TOKEN_BYTES, TransferLimits};
use super::reference::ImageRef;
use super::source::{Blob, ByteStream, Registry};
use super::wire::Descriptor;

/// The media types of manifests and indexes that are understood.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// Where nobody answers, waiting long rarely helps.
const CONNECT_ATTEMPTS: u32 = 2;
const USER_AGENT: &str = concat!("msb/", env!("CARGO_PKG_VERSION"));
const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// One repository of a registry.
pub(super) struct HttpRegistry {
    client: reqwest::Client,
    base: Url,
    insecure: bool,
    reference: ImageRef,
    access: RegistryAccess,
    limits: TransferLimits,
    /// What is sent to the registry's own origin. Behind an asynchronous lock so that parallel
    /// requests that are challenged at once authenticate once.
    authorization: Mutex<Option<HeaderValue>>,
}

impl HttpRegistry {
    pub(super) fn new(
        reference: ImageRef,
        access: &RegistryAccess,
        limits: &TransferLimits,
    ) -> Result<Self, Reason> {
        let insecure = access.is_insecure(&reference)?;
        let registry = reference.registry().to_owned();
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(limits.connect_timeout);
        if insecure {
            // No proxy may see what is meant for loopback, and no certificates are needed.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        let what = "the client".to_owned();
        let client = builder.build().map_err(|error| Reason::Transport {
            registry: registry.clone(),
            what,
            source: TransportError::new(error),
        })?;
        let scheme = if insecure { "http" } else { "https" };
        let base = format!("{scheme}://{}/v2/{}/", reference.api_host(), reference.repository());
        let base = Url::parse(&base).map_err(|error| Reason::Challenge {
            registry,
            problem: format!("its name makes no address: {error}"),
        })?;
        Ok(Self {
            client,
            base,
            insecure,
            reference,
            access: access.clone(),
            limits: limits.clone(),
            authorization: Mutex::new(None),
        })
    }

    fn registry(&self) -> String {
        self.reference.registry().to_owned()
    }

    /// A `GET` below the repository, with authentication, redirects and further attempts: an
    /// answer with a status of success.
    async fn get(&self, what: &str, path: &str, headers: HeaderMap) -> Result<Response, Reason> {
        let url = self.base.join(path).map_err(|error| Reason::Challenge {
            registry: self.registry(),
            problem: format!("{path} makes no address: {error}"),
        })?;
        let mut attempt = 1;
        loop {
            let (reason, wait) = match self.authorized(what, &url, &headers).await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let wait = retry_after(&response);
                    (self.refusal(what, response).await, wait)
                }
                Err(reason) => (reason, None),
            };
            let attempts = match &reason {
                Reason::Transport { source, .. } if source.is_connect() => {
                    self.limits.attempts.min(CONNECT_ATTEMPTS)
                }
                _ => self.limits.attempts,
            };
            if attempt >= attempts || !is_transient(&reason) {
                return Err(reason);
            }
            let backoff = self.limits.backoff.saturating_mul(1 << (attempt - 1).min(10));
            tokio::time::sleep(wait.unwrap_or(backoff).min(MAX_RETRY_AFTER)).await;
            attempt += 1;
        }
    }

    /// One request, repeated once with credentials when the registry's own origin asks for them.
    async fn authorized(
        &self,
        what: &str,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Reason> {
        let mut authorization = self.authorization.lock().await.clone();
        let mut challenged = false;
        loop {
            let (response, is_own) =
                self.follow(what, url, headers, authorization.as_ref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !is_own || challenged {
                return Ok(response);
            }
            challenged = true;
            let mut shared = self.authorization.lock().await;
            if *shared == authorization {
                *shared = Some(self.authenticate(response).await?);
            }
            authorization.clone_from(&shared);
        }
    }

    /// Sends a `GET` and follows redirects: the answer, and whether it is `url`'s own origin's.
    async fn follow(
        &self,
        what: &str,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), Reason> {
        let own: Origin = url.origin();
        let mut url = url.clone();
        for _ in 0..=self.limits.redirects {
            let is_own = url.origin() == own;
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let Some(value) = authorization
                && is_own
            {
                request = request.header(header::AUTHORIZATION, value.clone());
            }
            let response = self.answer(what, request).await?;
            if !is_redirect(response.status()) {
                return Ok((response, is_own));
            }
            let location = response.headers().get(header::LOCATION);
            let next = location
                .and_then(|value| value.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| self.redirect_error(what, &url, "it leads nowhere"))?;
            self.check_target(what, &next)?;
            url = next;
        }
        Err(self.redirect_error(what, &url, "there are too many"))
    }

    fn redirect_error(&self, what: &str, target: &Url, problem: &'static str) -> Reason {
        Reason::Redirect {
            registry: self.registry(),
            what: what.to_owned(),
            target: printable(&target.origin().ascii_serialization()),
            problem,
        }
    }

    fn check_target(&self, what: &str, target: &Url) -> Result<(), Reason> {
        if !target.username().is_empty() || target.password().is_some() {
            return Err(self.redirect_error(what, target, "it holds credentials"));
        }
        if self.is_allowed(target) {
            return Ok(());
        }
        Err(self.redirect_error(what, target, "it is not https"))
    }

    /// Plain HTTP is for loopback, and only where the user allowed it for this registry.
    fn is_allowed(&self, target: &Url) -> bool {
        let host = target.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match target.scheme() {
            "https" => true,
            "http" => self.insecure && is_loopback(host),
            _ => false,
        }
    }

    async fn answer(
        &self,
        what: &str,
        request: reqwest::RequestBuilder,
    ) -> Result<Response, Reason> {
        let limit = self.limits.connect_timeout + self.limits.idle_timeout;
        match timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Reason::Transport {
                registry: self.registry(),
                what: what.to_owned(),
                source: TransportError::new(error),
            }),
            Err(_) => Err(stalled(&self.registry(), what, &self.limits)),
        }
    }

    /// The header that answers the challenge of a `401`.
    async fn authenticate(&self, response: Response) -> Result<HeaderValue, Reason> {
        let registry = self.registry();
        let challenge = Challenge::of(response.headers())
            .map_err(|problem| Reason::Challenge { registry: registry.clone(), problem })?;
        let credential = self
            .access
            .credential(&self.reference)
            .await
            .map_err(|source| Reason::Credentials { registry: registry.clone(), source })?;
        match challenge {
            Challenge::Basic => match &credential {
                Credential::Basic { username, password, .. } => Ok(basic(username, &password.0)),
                Credential::Anonymous | Credential::Identity { .. } => Err(Reason::Denied {
                    registry,
                    credentials: credential.origin().to_owned(),
                    message: error_message(response, &self.limits).await,
                }),
            },
            Challenge::Bearer { realm, service } => {
                self.token(&realm, service.as_deref(), &credential).await
            }
        }
    }

    /// Gets an access token for pulling from the repository.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credential: &Credential,
    ) -> Result<HeaderValue, Reason> {
        let registry = self.registry();
        let wrong = |problem: &str| Reason::Challenge {
            registry: registry.clone(),
            problem: problem.to_owned(),
        };
        let mut url = Url::parse(realm).map_err(|_| wrong("the realm is no address"))?;
        if !self.is_allowed(&url) {
            return Err(wrong("the realm is not https"));
        }
        // Never the scope of the challenge: it could ask for more than pulling.
        let scope = format!("repository:{}:pull", self.reference.repository());
        let mut fields = vec![("scope", scope.as_str())];
        fields.extend(service.map(|service| ("service", service)));
        let what = "the access token";
        let response = if let Credential::Identity { token, .. } = credential {
            let identity = [
                ("grant_type", "refresh_token"),
                ("client_id", "msb"),
                ("refresh_token", &token.0),
            ];
            fields.extend(identity);
            let form =
                url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            let request = self
                .client
                .post(url)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form);
            self.answer(what, request).await?
        } else {
            url.query_pairs_mut().extend_pairs(fields);
            let authorization = match credential {
                Credential::Basic { username, password, .. } => Some(basic(username, &password.0)),
                Credential::Anonymous | Credential::Identity { .. } => None,
            };
            self.follow(what, &url, &HeaderMap::new(), authorization.as_ref()).await?.0
        };
        if matches!(response.status().as_u16(), 400 | 401 | 403) {
            let message = error_message(response, &self.limits).await;
            let credentials = credential.origin().to_owned();
            return Err(Reason::Denied { registry, credentials, message });
        }
        if !response.status().is_success() {
            return Err(self.refusal(what, response).await);
        }
        let bytes = collect(self.body(what, response), TOKEN_BYTES, what).await?;
        read_token(&bytes).ok_or_else(|| wrong("the token endpoint sent no token"))
    }

    /// The error for an answer that is no success.
    async fn refusal(&self, what: &str, response: Response) -> Reason {
        let registry = self.registry();
        let status = response.status();
        let message = error_message(response, &self.limits).await;
        let what = what.to_owned();
        match status {
            StatusCode::NOT_FOUND => Reason::NotFound { registry, what, message },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let credentials = match self.access.credential(&self.reference).await {
                    Ok(credential) => credential.origin().to_owned(),
                    Err(_) => "no credentials".to_owned(),
                };
                Reason::Denied { registry, credentials, message }
            }
            _ => Reason::Status { registry, what, status: status.as_u16(), message },
        }
    }

    fn body(&self, what: &str, response: Response) -> ByteStream {
        body(self.registry(), what.to_owned(), response, self.limits.clone())
    }

    async fn get_manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>, Reason> {
        let pinned = digest.or(self.reference.digest());
        let selector = pinned.map_or_else(|| self.reference.selector(), Digest::as_str);
        let what = format!("manifest {selector}");
        let headers =
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(ACCEPT_MANIFESTS))]);
        let mut attempt = 1;
        let (bytes, announced) = loop {
            let response =
                self.get(&what, &format!("manifests/{selector}"), headers.clone()).await?;
            let announced = response.headers().get(DIGEST_HEADER).cloned();
            let body = self.body(&what, response);
            match collect(body, self.limits.manifest_bytes, &what).await {
                Ok(bytes) => break (bytes, announced),
                Err(reason) if attempt < self.limits.attempts && is_transient(&reason) => {
                    attempt += 1
                }
                Err(reason) => return Err(reason),
            }
        };
        let got = Digest::of(&bytes);
        let announced = announced.as_ref().and_then(|value| value.to_str().ok());
        let is_announced = announced
            .and_then(|text| text.parse::<Digest>().ok())
            .is_none_or(|announced| announced == got);
        if pinned.is_some_and(|pinned| *pinned != got) || !is_announced {
            return Err(Reason::DigestMismatch { what, got });
        }
        Ok(bytes)
    }

    async fn get_blob(&self, blob: &Descriptor, from: u64) -> Result<Blob, Reason> {
        let mut headers = HeaderMap::new();
        // A transport encoding would have to be undone before the digest fits.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            headers.insert(header::RANGE, range);
        }
        let path = format!("blobs/{}", blob.digest);
        let response = match self.get(&blob.what, &path, headers).await {
            // The server does not serve that range: all of it, then.
            Err(Reason::Status { status: 416, .. }) if from > 0 => {
                self.get(&blob.what, &path, HeaderMap::new()).await?
            }
            other => other?,
        };
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(response.headers()).filter(|s| *s == from),
            _ => Some(0),
        };
        let Some(start) = start else {
            return Err(Reason::Status {
                registry: self.registry(),
                what: blob.what.clone(),
                status: 206,
                message: "another range than asked for".to_owned(),
            });
        };
        let left = blob.size_bytes - start.min(blob.size_bytes);
        if response.content_length().is_some_and(|length| length > left) {
            return Err(too_large(&blob.what, blob.size_bytes));
        }
        Ok(Blob::Stream { start, body: self.body(&blob.what, response) })
    }
}

impl Registry for HttpRegistry {
    fn manifest<'a>(
        &'a self,
        digest: Option<&'a Digest>,
    ) -> BoxFuture<'a, Result<Vec<u8>, Reason>> {
        self.get_manifest(digest).boxed()
    }

    fn blob<'a>(&'a self, blob: &'a Descriptor, from: u64) -> BoxFuture<'a, Result<Blob, Reason>> {
        self.get_blob(blob, from).boxed()
    }
}

/// Whether the same request may succeed a moment later.
pub(super) fn is_transient(reason: &Reason) -> bool {
    match reason {
        Reason::Transport { .. } | Reason::Stalled { .. } | Reason::Truncated { .. } => true,
        Reason::Status { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

/// More came than the manifest says.
pub(super) fn too_large(what: &str, size_bytes: u64) -> Reason {
    let whose = "the size in its manifest";
    Reason::TooLarge { what: what.to_owned(), limit_bytes: size_bytes, whose }
}

/// Reads a stream of at most `limit` bytes to its end.
pub(super) async fn collect(
    mut body: ByteStream,
    limit: u64,
    what: &str,
) -> Result<Vec<u8>, Reason> {
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            let whose = "the most that is accepted";
            return Err(Reason::TooLarge { what: what.to_owned(), limit_bytes: limit, whose });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn stalled(registry: &str, what: &str, limits: &TransferLimits) -> Reason {
    Reason::Stalled {
        registry: registry.to_owned(),
        what: what.to_owned(),
        idle_bytes: limits.idle_bytes,
        secs: limits.idle_timeout.as_secs(),
    }
}

/// The body of an answer. Each window of [`TransferLimits::idle_timeout`] must bring
/// [`TransferLimits::idle_bytes`], so that a drip ends like a stall does.
fn body(registry: String, what: String, response: Response, limits: TransferLimits) -> ByteStream {
    struct State {
        response: Response,
        deadline: Instant,
        in_window: u64,
    }
    let deadline = Instant::now() + limits.idle_timeout;
    let state = State { response, deadline, in_window: 0 };
    let next = move |mut state: State| {
        let (registry, what, limits) = (registry.clone(), what.clone(), limits.clone());
        async move {
            let chunk: Option<Bytes> = timeout_at(state.deadline, state.response.chunk())
                .await
                .map_err(|_| stalled(&registry, &what, &limits))?
                .map_err(|error| Reason::Transport {
                    registry: registry.clone(),
                    what: what.clone(),
                    source: TransportError::new(error),
                })?;
            let Some(chunk) = chunk else { return Ok(None) };
            state.in_window += chunk.len() as u64;
            let now = Instant::now();
            if state.in_window >= limits.idle_bytes {
                state.in_window = 0;
                state.deadline = now + limits.idle_timeout;
            } else if now >= state.deadline {
                return Err(stalled(&registry, &what, &limits));
            }
            Ok(Some((chunk, state)))
        }
    };
    stream::try_unfold(state, next).boxed()
}

/// What the body of an error says, in one line: the first message of the API's error document.
async fn error_message(response: Response, limits: &TransferLimits) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        #[serde(default)]
        errors: Vec<ApiError>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct ApiError {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let stream = body(String::new(), String::new(), response, limits.clone());
    let bytes = collect(stream, ERROR_BODY_BYTES, "").await.unwrap_or_default();
    let Ok(errors) = serde_json::from_slice::<Errors>(&bytes) else { return String::new() };
    match errors.errors.first() {
        Some(error) if !error.message.is_empty() => printable(&error.message),
        Some(error) => printable(&error.code),
        None => printable(&errors.details),
    }
}

fn read_token(bytes: &[u8]) -> Option<HeaderValue> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    sensitive(&format!("Bearer {token}"))
}

fn basic(username: &str, password: &str) -> HeaderValue {
    let pair = format!("{username}:{password}");
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    // Base64 is always a valid header value.
    sensitive(&format!("Basic {encoded}")).unwrap_or_else(|| HeaderValue::from_static("Basic"))
}

/// A header value that the client's own logging does not show.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// The first byte of `Content-Range: bytes 5-9/10`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

/// What a `401` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Bearer if it is offered, else Basic.
    fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut is_basic = false;
        for value in headers.get_all(header::WWW_AUTHENTICATE) {
            let text = value.to_str().map_err(|_| "it is not text".to_owned())?;
            let challenges =
                http_auth::parse_challenges(text).map_err(|_| format!("`{}`", printable(text)))?;
            for challenge in challenges {
                let field = |name: &str| {
                    let found = challenge.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let realm = field("realm").ok_or("a bearer challenge without a realm")?;
                    return Ok(Self::Bearer { realm, service: field("service") });
                }
                is_basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        if is_basic { Ok(Self::Basic) } else { Err("neither Basic nor Bearer".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&'static str]) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::of(&headers)
    }

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: Option<&str>| {
            Ok(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        assert_eq!(challenge(&["Basic realm=\"x\""]), Ok(Challenge::Basic));
        assert_eq!(
            challenge(&["Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:push\""]),
            bearer("https://a/t", Some("s"))
        );
        assert_eq!(
            challenge(&["Basic realm=\"x\"", "bearer realm=\"https://a\""]),
            bearer("https://a", None)
        );
        assert!(challenge(&[]).is_err());
        assert!(challenge(&["Negotiate"]).is_err());
        assert!(challenge(&["Bearer service=\"s\""]).is_err());
        assert!(challenge(&["\"\"\"=,,"]).is_err());
    }

    #[test]
    fn ranges_and_tokens() {
        let range = |text: &'static str| {
            range_start(&HeaderMap::from_iter([(
                header::CONTENT_RANGE,
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(range("bytes 5-9/10"), Some(5));
        assert_eq!(range("bytes */10"), None);
        assert_eq!(read_token(br#"{"access_token":"t"}"#).unwrap(), "Bearer t");
        assert_eq!(read_token(br#"{"token":""}"#), None);
        assert_eq!(read_token(b"{\"token\":\"a\\nb\"}"), None);
    }

    #[test]
    fn plain_http_stays_on_loopback() {
        let reference: ImageRef = "127.0.0.1:5000/a".parse().unwrap();
        let spec = crate::spec::RegistrySpec { insecure: true, ..Default::default() };
        let registries = std::collections::BTreeMap::from([("127.0.0.1:5000".to_owned(), spec)]);
        let access = RegistryAccess::new(&registries, |_| None);
        let limits = TransferLimits::default();
        let insecure = HttpRegistry::new(reference, &access, &limits).unwrap();
        let allowed = |registry: &HttpRegistry, url: &str| {
            registry.check_target("x", &Url::parse(url).unwrap()).is_ok()
        };
        assert!(allowed(&insecure, "http://127.0.0.1:9/x"));
        assert!(allowed(&insecure, "http://[::1]:9/x"));
        assert!(allowed(&insecure, "https://cdn.example/x"));
        assert!(!allowed(&insecure, "http://169.254.169.254/latest"));
        assert!(!allowed(&insecure, "https://user:pw@cdn.example/x"));
        assert!(!allowed(&insecure, "file:///etc/passwd"));
    }
}

//! Every name that two components must agree on: labels, annotations, ports, field managers.

/// API group of every resource.
pub const GROUP: &str = "ferrum.dev";
/// API version of [`crate::FerrumModel`].
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` in a manifest.
pub const API_VERSION: &str = "ferrum.dev/v1alpha1";
/// `kind` in a manifest.
pub const KIND: &str = "FerrumModel";

/// Label: the FerrumModel that an object belongs to.
pub const LABEL_MODEL: &str = "ferrum.dev/model";
/// Label: what the object is part of (`engine`, `router`, `operator`).
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label: who made the object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "ferrum";
/// Annotation: the OpenAI names that a replica serves, separated by commas.
pub const ANNOTATION_SERVED_NAMES: &str = "ferrum.dev/served-names";
/// Annotation: hash of the launch configuration that a replica was started with.
pub const ANNOTATION_LAUNCH_HASH: &str = "ferrum.dev/launch-hash";

/// Field manager of server-side apply.
pub const FIELD_MANAGER: &str = "ferrum-operator";

/// Port of an engine: HTTP and gRPC.
pub const ENGINE_PORT: u16 = 8080;
/// Port of the router: HTTP.
pub const ROUTER_PORT: u16 = 8080;
/// Name of the engine's port in pods and services.
pub const ENGINE_PORT_NAME: &str = "http";

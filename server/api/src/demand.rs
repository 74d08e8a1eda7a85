//! What a router tells the operator: the service `ferrum.v1.Demand` of `proto/ferrum.v1.proto`.

pub use crate::telemetry::{
    DemandReport, DemandRequest, ModelDemand, ModelKey, ReplicaDemand, demand_client, demand_server,
};

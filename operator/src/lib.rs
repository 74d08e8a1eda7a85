//! From FerrumModels to pods: `dereference -> validate -> build -> apply -> update_status`, one file a step.

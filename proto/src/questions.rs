//! What a service that is asked over the bus can be asked: each method as a type.

/// A service of which any replica answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// [`crate::messages`]: the persistence service.
    Messages,
    /// [`crate::presence`]: the presence service.
    Presence,
    /// [`crate::notifications`]: the notify service.
    Notifications,
    /// [`crate::publishing`]: gateways.
    Publishing,
}

/// A method of a service.
pub trait Method {
    /// Whose.
    const SERVICE: Service;
    /// As the service spells it.
    const NAME: &'static str;
    /// What is asked.
    type Request: prost::Message + Default;
    /// What is answered.
    type Response: prost::Message + Default;
}

/// Each method of a service as a type in a module `method`.
macro_rules! methods {
    ($service:expr; $($(#[$about:meta])* $name:ident: $request:ty => $response:ty,)*) => {
        /// Each method as a type.
        pub mod method {
            $($(#[$about])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;)*
        }

        $(impl $crate::questions::Method for method::$name {
            const SERVICE: $crate::questions::Service = $service;
            const NAME: &'static str = stringify!($name);
            type Request = $request;
            type Response = $response;
        })*
    };
}
pub(crate) use methods;

//! Promises that threads of the engine settle.

use diskferry_engine::error::{Error, Stage};
use napi::bindgen_prelude::{Env, Object, ToNapiValue};

use crate::errors::thrown;

pub type Deferred<T> = napi::JsDeferred<T, Box<dyn FnOnce(Env) -> napi::Result<T>>>;

/// A promise and what settles it.
pub fn promise<T: ToNapiValue>(env: &Env) -> napi::Result<(Deferred<T>, Object<'static>)> {
    let (deferred, promise): (Deferred<T>, Object) = env.create_deferred()?;
    // SAFETY: the promise is handed to JavaScript at once; its lifetime is that of the call.
    let promise: Object<'static> = unsafe { std::mem::transmute(promise) };
    Ok((deferred, promise))
}

/// Runs `work` on a thread of its own and settles the promise with what it came to.
pub fn settle<T>(
    env: &Env,
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> napi::Result<Object<'static>>
where
    T: ToNapiValue + Send + 'static,
{
    let (deferred, promise) = promise(env)?;
    std::thread::Builder::new()
        .name(format!("ferry-{name}"))
        .spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|payload| Err(Error::panicked(Stage::Plan, &*payload)));
            match result {
                Ok(value) => deferred.resolve(Box::new(move |_| Ok(value))),
                Err(error) => deferred.reject(thrown(&error)),
            }
        })
        .map_err(|e| napi::Error::from_reason(e.to_string()))?;
    Ok(promise)
}

//! Echo, which every agent has.

use super::Incoming;

/// Returns every byte as it came.
pub(crate) async fn echo(mut incoming: Incoming) {
    let stream = &mut incoming.stream;
    while let Ok(Some(chunk)) = stream.read_chunk().await {
        if stream.write_chunk(chunk).await.is_err() {
            return;
        }
    }
    stream.finish();
}

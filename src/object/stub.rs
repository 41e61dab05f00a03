use crate::object::*; use crate::object::types::*; use crate::iam::Grant; use crate::meta::bucket::Bucket; use crate::ids::UploadId;
impl Objects {
    pub async fn put(&self, _grant: &Grant, _request: PutRequest) -> Result<Written, PutError> { unimplemented!() }
    pub async fn get(&self, _grant: &Grant, _key: &ObjectKey, _request: GetRequest) -> Result<GetOutcome, GetError> { unimplemented!() }
    pub async fn head(&self, _grant: &Grant, _key: &ObjectKey, _request: GetRequest) -> Result<HeadOutcome, GetError> { unimplemented!() }
    pub async fn delete(&self, _grant: &Grant, _key: &ObjectKey, _conditions: WriteConditions) -> Result<(), DeleteError> { unimplemented!() }
    pub async fn delete_many(&self, _grant: &Grant, _targets: Vec<DeleteTarget>) -> Vec<Result<(), DeleteError>> { unimplemented!() }
    pub async fn copy(&self, _source: &Grant, _source_key: &ObjectKey, _dest: &Grant, _request: CopyRequest) -> Result<Written, CopyError> { unimplemented!() }
    pub async fn list(&self, _grant: &Grant, _request: ListRequest) -> Result<ListPage, StoreError> { unimplemented!() }
    pub async fn attributes(&self, _grant: &Grant, _key: &ObjectKey, _request: AttributesRequest) -> Result<Attributes, GetError> { unimplemented!() }
    pub async fn create_upload(&self, _grant: &Grant, _request: CreateUpload) -> Result<UploadInfo, CreateUploadError> { unimplemented!() }
    pub async fn upload_part(&self, _grant: &Grant, _request: UploadPart) -> Result<PartInfo, UploadPartError> { unimplemented!() }
    pub async fn upload_part_copy(&self, _source: &Grant, _dest: &Grant, _request: UploadPartCopy) -> Result<PartInfo, CopyPartError> { unimplemented!() }
    pub async fn list_parts(&self, _grant: &Grant, _request: ListParts) -> Result<PartPage, UploadError> { unimplemented!() }
    pub async fn list_uploads(&self, _grant: &Grant, _request: ListUploads) -> Result<UploadPage, StoreError> { unimplemented!() }
    pub async fn complete_upload(&self, _grant: &Grant, _request: CompleteUpload) -> Result<Written, CompleteError> { unimplemented!() }
    pub async fn abort_upload(&self, _grant: &Grant, _key: &ObjectKey, _upload: UploadId) -> Result<(), UploadError> { unimplemented!() }
    pub async fn counters(&self, _bucket: &Bucket) -> Result<Usage, StoreError> { unimplemented!() }
    pub async fn recount(&self, _bucket: &Bucket) -> Result<Usage, StoreError> { unimplemented!() }
    pub fn start_sweeper(self: &Arc<Self>, _every: std::time::Duration) -> SweeperHandle { unimplemented!() }
}
pub struct SweeperHandle;

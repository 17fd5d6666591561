// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A kubelet's calls: what of the CRI (kubernetes/cri-api, pkg/apis/runtime/v1/api.proto) pods with containers need. Fields that are
//! left out have their defaults.

use std::path::PathBuf;

use prost::Message;
use tonic::Status;

use super::wire;

/// `NamespaceMode.NODE`: that of the host.
const NODE: i32 = 2;
/// `NamespaceMode.CONTAINER`: one of its own.
const OWN: i32 = 1;
/// `ContainerState.CONTAINER_RUNNING`.
pub const RUNNING: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub struct Nothing {}

#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
}

/// `PullImageRequest`, `RemoveImageRequest`, `ImageStatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PullImageResponse {
    #[prost(string, tag = "1")]
    pub image_ref: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Image {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub size: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Count {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FilesystemUsage {
    #[prost(message, optional, tag = "3")]
    pub used_bytes: Option<Count>,
    #[prost(message, optional, tag = "4")]
    pub inodes_used: Option<Count>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ImageFsInfoResponse {
    #[prost(message, repeated, tag = "1")]
    pub image_filesystems: Vec<FilesystemUsage>,
}

#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOption {
    #[prost(int32, tag = "1")]
    pub network: i32,
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// What a kubelet says of a pod on the host's network.
const HOST_NETWORK: NamespaceOption = NamespaceOption { network: NODE, pid: OWN };

#[derive(Clone, PartialEq, Message)]
pub struct SandboxSecurity {
    #[prost(message, optional, tag = "1")]
    pub namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<SandboxSecurity>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "3")]
    pub log_directory: String,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub config: Option<PodSandboxConfig>,
}

/// Every request and every answer that is an id and nothing else.
#[derive(Clone, PartialEq, Message)]
pub struct Id {
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `PodSandbox` and `Container`, of lists.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandbox {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Container {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    #[prost(int32, tag = "6")]
    pub state: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerSecurity {
    #[prost(message, optional, tag = "3")]
    pub namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerConfig {
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    #[prost(string, tag = "11")]
    pub log_path: String,
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StopContainerRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(int64, tag = "2")]
    pub timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncRequest {
    #[prost(string, tag = "1")]
    pub container_id: String,
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

type Got<T> = Result<T, Status>;

/// containerd's CRI plugin.
#[derive(Clone)]
pub struct Cri {
    pub socket: PathBuf,
    /// The cgroup that pods are made in, below the root.
    pub cgroup: String,
    /// Where logs go.
    pub logs: PathBuf,
}

/// A pod with one container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    pub sandbox: String,
    pub container: String,
}

impl Cri {
    fn of_images<A: Message + Default + 'static>(&self, method: &str, request: impl Message + 'static) -> Got<A> {
        wire::call(&self.socket, &format!("/runtime.v1.ImageService/{method}"), request)
    }

    fn of_runtime<A: Message + Default + 'static>(&self, method: &str, request: impl Message + 'static) -> Got<A> {
        wire::call(&self.socket, &format!("/runtime.v1.RuntimeService/{method}"), request)
    }

    pub fn pull(&self, image: &str) -> Got<String> {
        Ok(self.of_images::<PullImageResponse>("PullImage", request_of(image))?.image_ref)
    }

    pub fn remove_image(&self, image: &str) -> Got<()> {
        self.of_images::<Nothing>("RemoveImage", request_of(image)).map(drop)
    }

    pub fn image(&self, image: &str) -> Got<Option<Image>> {
        Ok(self.of_images::<ImageStatusResponse>("ImageStatus", request_of(image))?.image)
    }

    pub fn images(&self) -> Got<Vec<Image>> {
        Ok(self.of_images::<ListImagesResponse>("ListImages", Nothing {})?.images)
    }

    pub fn image_filesystems(&self) -> Got<Vec<FilesystemUsage>> {
        Ok(self.of_images::<ImageFsInfoResponse>("ImageFsInfo", Nothing {})?.image_filesystems)
    }

    /// The configuration of a pod on the host's network.
    fn pod_config(&self, name: &str) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "tests".into() };
        let security = SandboxSecurity { namespace_options: Some(HOST_NETWORK) };
        let linux = LinuxPodSandboxConfig { cgroup_parent: self.cgroup.clone(), security_context: Some(security) };
        let log_directory = self.logs.join(name).display().to_string();
        PodSandboxConfig { metadata: Some(metadata), log_directory, linux: Some(linux) }
    }

    /// Starts a pod without containers, and gives its id.
    pub fn run_sandbox(&self, name: &str) -> Got<String> {
        let config = self.pod_config(name);
        std::fs::create_dir_all(&config.log_directory).unwrap();
        Ok(self.of_runtime::<Id>("RunPodSandbox", RunPodSandboxRequest { config: Some(config) })?.id)
    }

    /// Makes a container in a pod, and gives its id.
    pub fn create(&self, sandbox: &str, pod: &str, image: &str, command: &[&str]) -> Got<String> {
        let security = ContainerSecurity { namespace_options: Some(HOST_NETWORK) };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".into() }),
            image: Some(ImageSpec { image: image.into() }),
            command: command.iter().map(ToString::to_string).collect(),
            log_path: "main.log".into(),
            linux: Some(LinuxContainerConfig { security_context: Some(security) }),
        };
        let (pod_sandbox_id, sandbox_config) = (sandbox.to_owned(), Some(self.pod_config(pod)));
        let request = CreateContainerRequest { pod_sandbox_id, config: Some(config), sandbox_config };
        Ok(self.of_runtime::<Id>("CreateContainer", request)?.id)
    }

    pub fn start(&self, container: &str) -> Got<()> {
        self.of_runtime::<Nothing>("StartContainer", id(container)).map(drop)
    }

    /// Starts a pod and a container in it that sleeps.
    pub fn run_pod(&self, name: &str, image: &str) -> Got<Pod> {
        let sandbox = self.run_sandbox(name)?;
        let container = self.create(&sandbox, name, image, &["sleep", "100000"])?;
        self.start(&container)?;
        Ok(Pod { sandbox, container })
    }

    /// Runs a command in a container, and gives its code and what it has printed.
    pub fn exec(&self, container: &str, command: &[&str]) -> Got<(i32, String)> {
        let cmd = command.iter().map(ToString::to_string).collect();
        let request = ExecSyncRequest { container_id: container.into(), cmd, timeout: 60 };
        let done: ExecSyncResponse = self.of_runtime("ExecSync", request)?;
        Ok((done.exit_code, String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()))
    }

    pub fn stop(&self, container: &str) -> Got<()> {
        let request = StopContainerRequest { container_id: container.into(), timeout: 0 };
        self.of_runtime::<Nothing>("StopContainer", request).map(drop)
    }

    pub fn remove(&self, container: &str) -> Got<()> {
        self.of_runtime::<Nothing>("RemoveContainer", id(container)).map(drop)
    }

    pub fn stop_sandbox(&self, sandbox: &str) -> Got<()> {
        self.of_runtime::<Nothing>("StopPodSandbox", id(sandbox)).map(drop)
    }

    pub fn remove_sandbox(&self, sandbox: &str) -> Got<()> {
        self.of_runtime::<Nothing>("RemovePodSandbox", id(sandbox)).map(drop)
    }

    /// Ends a pod as a kubelet does.
    pub fn end_pod(&self, pod: &Pod) -> Got<()> {
        self.stop(&pod.container)?;
        self.remove(&pod.container)?;
        self.stop_sandbox(&pod.sandbox)?;
        self.remove_sandbox(&pod.sandbox)
    }

    pub fn sandboxes(&self) -> Got<Vec<String>> {
        let list: ListPodSandboxResponse = self.of_runtime("ListPodSandbox", Nothing {})?;
        Ok(list.items.into_iter().map(|item| item.id).collect())
    }

    pub fn containers(&self) -> Got<Vec<Container>> {
        Ok(self.of_runtime::<ListContainersResponse>("ListContainers", Nothing {})?.containers)
    }
}

fn request_of(image: &str) -> ImageRequest {
    ImageRequest { image: Some(ImageSpec { image: image.to_owned() }) }
}

fn id(id: &str) -> Id {
    Id { id: id.to_owned() }
}

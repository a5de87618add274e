"""twistd finds our services here; their modules are imported only when named."""

from twisted.application.service import ServiceMaker

adaptor = ServiceMaker(
    "peer pods adaptor", "peerpods.cli.services.adaptor", "Answers the kata shim with VMs of a cloud", "adaptor"
)
relay = ServiceMaker(
    "peer pods relay", "peerpods.cli.services.relay", "Carries each pod's agent calls to its VM", "relay"
)
forwarder = ServiceMaker(
    "peer pods forwarder", "peerpods.cli.services.forwarder", "Guards the agent inside a pod VM", "forwarder"
)
agent = ServiceMaker(
    "peer pods development agent", "peerpods.cli.services.agent", "Runs containers where no kata-agent is", "agent"
)
peerpod_ctrl = ServiceMaker(
    "peer pods controller",
    "peerpods.cli.services.peerpod_ctrl",
    "Deletes VMs that a gone pod or a gone node left",
    "peerpod-ctrl",
)
peerpodconfig_ctrl = ServiceMaker(
    "peer pods cluster set-up",
    "peerpods.cli.services.peerpodconfig_ctrl",
    "Sets a cluster up for peer pods as its PeerPodConfig says, and keeps it so",
    "peerpodconfig-ctrl",
)
webhook = ServiceMaker(
    "peer pods webhook", "peerpods.cli.services.webhook", "Sizes the VM of each peer pod at its admission", "webhook"
)

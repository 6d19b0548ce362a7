// SPDX-License-Identifier: Apache-2.0
//
// Which guests of a daemon reach each other: those that share a group, as in vhost-device-vsock.

import VsockWire

/// What one VM knows of the others.
struct SiblingLinks: Sendable {
    /// Where messages for it arrive.
    let inbox: SiblingInbox
    /// The inboxes of the guests that it reaches, by context ID.
    let neighbours: [UInt32: SiblingInbox]
}

/// The VMs of a daemon. It does not change while the daemon runs.
struct SiblingDirectory: Sendable {
    private let links: [UInt32: SiblingLinks]

    /// A directory of VMs, each with the mailbox of the loop that serves it.
    init(_ vms: [(configuration: VsockDeviceConfiguration, mailbox: LoopMailbox)]) {
        let inboxes = vms.map { SiblingInbox(mailbox: $0.mailbox) }
        var links: [UInt32: SiblingLinks] = [:]
        for (index, vm) in vms.enumerated() {
            var neighbours: [UInt32: SiblingInbox] = [:]
            for (other, inbox) in zip(vms, inboxes)
            where other.configuration.guestCID != vm.configuration.guestCID
                && !other.configuration.groups.isDisjoint(with: vm.configuration.groups)
            {
                neighbours[other.configuration.guestCID] = inbox
            }
            if !neighbours.isEmpty {
                links[vm.configuration.guestCID] = SiblingLinks(inbox: inboxes[index], neighbours: neighbours)
            }
        }
        self.links = links
    }

    /// What a VM knows of the others; nil when it reaches none.
    func links(of guestCID: UInt32) -> SiblingLinks? { links[guestCID] }
}

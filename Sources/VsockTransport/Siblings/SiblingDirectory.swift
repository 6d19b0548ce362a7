// SPDX-License-Identifier: Apache-2.0
//
// Which guests of a daemon reach each other: those that share a group, as in vhost-device-vsock.

import VsockWire

/// What one VM knows of the others.
struct SiblingLinks: Sendable {
    /// Where messages for it arrive.
    let inbox: SiblingInbox
    /// The inboxes of the guests that share a group with it, by context ID; its own is among them. VMs with the same
    /// groups share one table: one for each would be much for many VMs.
    let neighbours: [UInt32: SiblingInbox]
}

/// The VMs of a daemon. It does not change while the daemon runs.
struct SiblingDirectory: Sendable {
    private let links: [UInt32: SiblingLinks]

    /// A directory of VMs, each with the mailbox of the loop that serves it.
    init(_ vms: [(configuration: VsockDeviceConfiguration, mailbox: LoopMailbox)]) {
        let inboxes = vms.map { SiblingInbox(mailbox: $0.mailbox) }
        var links: [UInt32: SiblingLinks] = [:]
        var tables: [Set<String>: [UInt32: SiblingInbox]] = [:]
        for (index, vm) in vms.enumerated() {
            let groups = vm.configuration.groups
            var neighbours = tables[groups] ?? [:]
            if neighbours.isEmpty {
                for (other, inbox) in zip(vms, inboxes) where !other.configuration.groups.isDisjoint(with: groups) {
                    neighbours[other.configuration.guestCID] = inbox
                }
                tables[groups] = neighbours
            }
            if neighbours.count > 1 {
                links[vm.configuration.guestCID] = SiblingLinks(inbox: inboxes[index], neighbours: neighbours)
            }
        }
        self.links = links
    }

    /// What a VM knows of the others; nil when it reaches none.
    func links(of guestCID: UInt32) -> SiblingLinks? { links[guestCID] }
}

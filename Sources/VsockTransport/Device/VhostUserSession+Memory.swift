// SPDX-License-Identifier: Apache-2.0
//
// The memory that a monitor shares: the guest's, by one table or region by region, and the record of what is in flight
// (vhost-user.rst, "Memory access" and "Inflight I/O tracking").

import Logging
import VhostUser
import VirtioQueue
import VsockSystem

extension VhostUserSession {
    func setMemory(_ regions: [MemoryRegion]) -> BackendResult {
        var table: [(MemoryRegion, MemoryMapping)] = []
        for (index, region) in regions.enumerated() {
            guard let mapping = map(region, received.take(at: index)) else { return .failure }
            table.append((region, mapping))
        }
        mappings = table
        return applyMemory()
    }

    func addMemory(_ region: MemoryRegion) -> BackendResult {
        guard let mapping = map(region, received.take(at: 0)) else { return .failure }
        mappings.append((region, mapping))
        return applyMemory()
    }

    private func map(_ region: MemoryRegion, _ descriptor: consuming OwnedFileDescriptor?) -> MemoryMapping? {
        guard let descriptor = descriptor, let byteCount = Int(exactly: region.byteCount) else { return nil }
        do throws(SystemCallError) {
            return try MemoryMapping(
                descriptor: descriptor.rawValue, offset: region.mmapOffset, byteCount: byteCount,
                loss: device.memoryLoss)
        } catch {
            log.error("guest memory cannot be mapped", metadata: ["error": "\(error)"])
            return nil
        }
    }

    func makeInflight(_ area: InflightArea) -> BackendResult {
        let configuration = session.configuration
        guard (1...configuration.queueCount).contains(area.queueCount),
            (1...configuration.maxQueueSize).contains(area.queueSize)
        else { return .failure }
        do throws(SystemCallError) {
            let byteCount = InflightMemory.byteCount(area)
            createdInflight = try SharedMemory(name: "vsock-inflight", byteCount: byteCount)
            return .inflight(
                InflightArea(
                    byteCount: UInt64(byteCount), queueCount: area.queueCount, queueSize: area.queueSize))
        } catch {
            log.error("no memory for what is in flight", metadata: ["error": "\(error)"])
            return .failure
        }
    }

    func setInflight(
        _ area: InflightArea, _ descriptor: consuming OwnedFileDescriptor?
    ) -> BackendResult {
        guard let descriptor = descriptor else { return .failure }
        do throws(SystemCallError) {
            inflight = try InflightMemory(area, descriptor: descriptor.rawValue, loss: device.memoryLoss)
            for queue in queues { queue.resubmitsInflight = !queue.isRunning }
            return .success
        } catch {
            log.error("the record of what is in flight is refused", metadata: ["error": "\(error)"])
            return .failure
        }
    }

    /// Replaces the device's view of guest memory; queues that run go on in the new one.
    func applyMemory() -> BackendResult {
        do throws(GuestMemoryError) {
            let memory = try GuestMemory(
                regions: mappings.map { entry in
                    GuestMemory.Region(
                        guestAddress: entry.region.guestAddress, byteCount: entry.region.byteCount,
                        userAddress: entry.region.userAddress, base: entry.mapping.base, owner: entry.mapping)
                })
            let running = queues.indices.filter { queues[$0].isRunning }
            let bases = running.map { stopQueue($0) ?? 0 }
            device.setMemory(memory)
            for (queue, base) in zip(running, bases) {
                queues[queue].pausedBase = base
                startQueue(queue, base: base, isContinued: true)
            }
            return .success
        } catch {
            log.error("guest memory refused", metadata: ["error": "\(error)"])
            return .failure
        }
    }
}

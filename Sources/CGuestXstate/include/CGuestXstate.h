// SPDX-License-Identifier: Apache-2.0
// Nothing to call: the library is preloaded into User Mode Linux, where it stands in for ptrace(2). See ptrace.c.

// SPDX-License-Identifier: Apache-2.0
//
// Everything is in the header; SwiftPM wants one source file per C target, and this one checks the header as C.

#include "CVsockLinux.h"

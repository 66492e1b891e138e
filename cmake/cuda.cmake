# CUDA is found, never required: CVX_CUDA=AUTO uses it where it is, OFF leaves it out, ON makes its absence an
# error. Device code lives in kernels/cuda/*.cu only; without any there is nothing to build.
set(CVX_CUDA AUTO CACHE STRING "AUTO, ON or OFF")
set_property(CACHE CVX_CUDA PROPERTY STRINGS AUTO ON OFF)

file(GLOB cvx_cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
if(NOT CVX_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  set(CMAKE_MESSAGE_LOG_LEVEL_SAVED ${CMAKE_MESSAGE_LOG_LEVEL})
  set(CMAKE_MESSAGE_LOG_LEVEL NOTICE) # one line below instead of CMake's own two
  check_language(CUDA)
  set(CMAKE_MESSAGE_LOG_LEVEL ${CMAKE_MESSAGE_LOG_LEVEL_SAVED})
endif()

if(CVX_CUDA STREQUAL "OFF")
  message(STATUS "CUDA: left out (CVX_CUDA=OFF)")
elseif(NOT CMAKE_CUDA_COMPILER)
  if(CVX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "CUDA: CVX_CUDA=ON, but no CUDA compiler was found (set CMAKE_CUDA_COMPILER or PATH)")
  endif()
  message(STATUS "CUDA: not found, left out")
elseif(NOT cvx_cuda_sources)
  message(STATUS "CUDA: found (${CMAKE_CUDA_COMPILER}), left out: this version has CPU kernels only")
endif()
